"""From the log to ClickHouse, each record once.

A batch's rows are written first, and last the records themselves, to ``events`` or ``telemetry_batches``: what that
table holds of a partition is what has been done. So whoever begins deletes all that lies beyond it, which a sink that
was killed may have left, and goes on behind it.
"""

from __future__ import annotations

import logging
import threading
from itertools import islice
from typing import TYPE_CHECKING

from esper.log.port import ASSETS, DEADLETTER, RUNS, SIGNALS, TELEMETRY, Log
from esper.nissa.rollups import undo
from esper.nissa.rows import TABLES
from esper.nissa.writing import write

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
            write(self._client, self._ids[topic], topic, batch)
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
