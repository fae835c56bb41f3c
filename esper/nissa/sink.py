"""From the log to ClickHouse, each record once.

A batch's rows are written first, and last the records themselves, to ``events`` or ``telemetry_batches``: what that
table holds of a partition is what has been done. So whoever begins deletes all that lies beyond it, which a sink that
was killed may have left, and goes on behind it.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import orjson

from esper.errors import DecodeError
from esper.events import Event
from esper.events.telemetry import StepsMeasured
from esper.log.port import ASSETS, DEADLETTER, RUNS, SIGNALS, TELEMETRY, Entry, Log
from esper.log.records import event_of
from esper.nissa import telemetry
from esper.nissa.rollups import undo
from esper.nissa.rows import TABLES, Values, rows_of

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

TOPICS = (RUNS, SIGNALS, ASSETS, DEADLETTER, TELEMETRY)
DONE = {topic: "telemetry_batches" if topic == TELEMETRY else "events" for topic in TOPICS}
"""The table that says what of a topic is done."""
logger = logging.getLogger("esper")
EVENTS, BATCHES = 10_000, 200
"""Records written at once, at most: events, and batches of measurements."""


class Sink:
    """Fills one database from one log. There may be only one for a database and log at a time."""

    def __init__(self, client: Client, log: Log) -> None:
        self._client, self._log = client, log
        self._ids: dict[str, str] = {}
        self.places: dict[str, dict[int, int]] = {}  # by topic and partition, the last offset that is done

    def catch_up(self) -> int:
        """Write what the log holds and the database does not; returns the number of records."""
        self.begin_all()
        return self.advance()

    def begin_all(self) -> None:
        """Find out what is done, and undo what lies beyond."""
        for topic in TOPICS:
            self._ids[topic], self.places[topic] = self._begin(topic)

    def advance(self, stop: threading.Event | None = None) -> int:
        """Write what has come since; returns the number of records. Ends early, after a batch, if ``stop`` is set."""
        return sum(self._fill(topic, stop or threading.Event()) for topic in TOPICS)

    def rebuild(self) -> int:
        """Write all that the log holds anew; what it does not hold any more stays. Returns the number of records."""
        written = 0
        for topic in TOPICS:
            self._ids[topic] = self._log.topic_id(topic)
            self.places[topic] = {partition: first - 1 for partition, (first, _) in self._log.bounds(topic).items()}
            self._undo_beyond(self._ids[topic], topic, self.places[topic])
            written += self._fill(topic, threading.Event())
        return written

    def _fill(self, topic: str, stop: threading.Event) -> int:
        written, places = 0, self.places[topic]
        entries = iter(self._log.since(topic, dict(places)))
        while not stop.is_set() and (batch := list(islice(entries, BATCHES if topic == TELEMETRY else EVENTS))):
            self._write(topic, batch)
            places |= {entry.position.partition: entry.position.offset for entry in batch}
            written += len(batch)
        return written

    def _begin(self, topic: str) -> tuple[str, dict[int, int]]:
        """The topic's id, and the last offset of each partition that is done; what lies beyond is undone first."""
        log_id = self._log.topic_id(topic)
        where = "log = {log:String}" + (" AND topic = {topic:String}" if DONE[topic] == "events" else "")
        query = f"SELECT partition, max(offset) FROM {DONE[topic]} WHERE {where} GROUP BY partition"
        found = self._client.query(query, parameters={"log": log_id, "topic": topic}).result_rows
        done = {int(partition): int(offset) for partition, offset in found}
        for partition, (first, _) in self._log.bounds(topic).items():
            if (lost := first - done.get(partition, -1) - 1) > 0:
                logger.warning(
                    "%s/%d: the log begins at offset %d now; up to %d records before were never written to ClickHouse",
                    *(topic, partition, first, lost),
                )
        self._undo_beyond(log_id, topic, done)
        return log_id, done

    def _write(self, topic: str, batch: Sequence[Entry]) -> None:
        """Write records of one topic, in the order in which they lie in their partitions."""
        if topic == TELEMETRY:
            self._write_telemetry(self._ids[topic], batch)
        else:
            self._write_events(self._ids[topic], topic, batch)

    def _undo_beyond(self, log_id: str, topic: str, done: dict[int, int]) -> None:
        """Delete the rows of records that are not done."""
        beyond = (
            "log = {log:String} AND "
            "offset > transform(partition, {partitions:Array(UInt16)}, {offsets:Array(Int64)}, toInt64(-1))"
        )
        given = {"log": log_id, "topic": topic, "partitions": list(done), "offsets": list(done.values())}
        tables = ("telemetry",) if topic == TELEMETRY else TABLES.get(topic, ())
        for table in (*tables, DONE[topic]):
            which = f"{beyond} AND topic = {{topic:String}}" if table == "events" else beyond
            if not self._client.command(f"SELECT count() FROM {table} WHERE {which}", parameters=given):
                continue
            if table == "telemetry":
                undo(self._client, beyond, given)
            else:
                self._client.command(f"DELETE FROM {table} WHERE {which}", parameters=given)

    def _write_events(self, log_id: str, topic: str, batch: Sequence[Entry]) -> None:
        tables: dict[str, list[Values]] = defaultdict(list)
        for entry in batch:
            place = {"log": log_id, "partition": entry.position.partition, "offset": entry.position.offset}
            event, error = _decoded(entry)
            tables["events"].append(place | {"topic": topic} | _event_row(entry, event, error))
            if event is not None:
                for number, (table, row) in enumerate(rows_of(event, entry.record.key)):
                    tables[table].append(place | {"row": number} | row)
        done = tables.pop("events")
        for table, rows in tables.items():
            self._insert(table, rows)
        self._insert("events", done)

    def _write_telemetry(self, log_id: str, batch: Sequence[Entry]) -> None:
        good: list[telemetry.Batch] = []
        done: list[Values] = []
        for entry in batch:
            event, error = _decoded(entry)
            content = event.content if event is not None else None
            if isinstance(content, StepsMeasured):
                error = telemetry.check(content)
            row: Values = {
                "log": log_id,
                "partition": entry.position.partition,
                "offset": entry.position.offset,
                "run_id": entry.record.key,
                "time": entry.timestamp,
                "error": error,
            }
            if event is not None and isinstance(content, StepsMeasured) and not error:
                good.append((entry.record.key, entry.position, content))
                row |= {"attempt": content.attempt, "epoch": event.envelope.epoch or 0, "time": event.envelope.time}
                row |= {"rows": len(content.value), "dropped": content.dropped}
            done.append(row)
        if good:
            self._client.insert_arrow("telemetry", telemetry.table(log_id, good))
        self._insert("telemetry_batches", done)

    def _insert(self, table: str, rows: Sequence[Values]) -> None:
        """Rows may leave columns out, which then have their defaults."""
        groups: dict[tuple[str, ...], list[tuple[Any, ...]]] = defaultdict(list)
        for row in rows:
            groups[tuple(row)].append(tuple(row.values()))
        for columns, values in groups.items():
            self._client.insert(table, values, column_names=columns)


def _decoded(entry: Entry) -> tuple[Event | None, str]:
    """The event, or why there is none."""
    try:
        return event_of(entry), ""
    except DecodeError as error:
        return None, str(error)


def _event_row(entry: Entry, event: Event | None, error: str) -> Values:
    if event is None:
        return {"key": entry.record.key, "type": "", "time": entry.timestamp, "payload": "", "error": error}
    envelope = event.envelope
    return {
        "key": entry.record.key,
        "type": entry.record.schema.name.rpartition(".")[2],
        "sequence": envelope.sequence or 0,
        "epoch": envelope.epoch or 0,
        "time": envelope.time,
        "writer": envelope.writer,
        "id": envelope.id,
        "causes": list(envelope.causes),
        "payload": payload(event),
    }


def payload(event: Event) -> str:
    """The event's content as JSON."""
    return orjson.dumps(event.content, default=_plain).decode()


def _plain(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"{type(value).__name__} has no JSON form")
