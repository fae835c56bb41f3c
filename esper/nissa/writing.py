"""Records of the log as rows of the tables: decoded, put into columns, inserted. ``events`` and
``telemetry_batches`` come last, for what they hold of a partition is what has been done."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import orjson

from esper.errors import DecodeError
from esper.events import Event
from esper.events.telemetry import StepsMeasured
from esper.log.port import TELEMETRY, Entry
from esper.log.records import event_of
from esper.nissa import telemetry
from esper.nissa.rows import Values, rows_of

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client


def write(client: Client, log_id: str, topic: str, batch: Sequence[Entry]) -> None:
    """Write records of one topic, in the order in which they lie in their partitions."""
    if topic == TELEMETRY:
        _write_telemetry(client, log_id, batch)
    else:
        _write_events(client, log_id, topic, batch)


def _write_events(client: Client, log_id: str, topic: str, batch: Sequence[Entry]) -> None:
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
        _insert(client, table, rows)
    _insert(client, "events", done)


def _write_telemetry(client: Client, log_id: str, batch: Sequence[Entry]) -> None:
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
        client.insert_arrow("telemetry", telemetry.table(log_id, good))
    _insert(client, "telemetry_batches", done)


def _insert(client: Client, table: str, rows: Sequence[Values]) -> None:
    """Rows may leave columns out, which then have their defaults."""
    groups: dict[tuple[str, ...], list[tuple[Any, ...]]] = defaultdict(list)
    for row in rows:
        groups[tuple(row)].append(tuple(row.values()))
    for columns, values in groups.items():
        client.insert(table, values, column_names=columns)


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
