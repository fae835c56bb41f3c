"""Records of the log as rows of the tables: decoded, put into columns, inserted. ``events`` and
``telemetry_batches`` come last, for what they hold of a partition is what has been done."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, starmap
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import orjson

from esper.errors import DecodeError
from esper.events import Event
from esper.events.telemetry import StepsMeasured
from esper.log.port import TELEMETRY, Entry
from esper.log.records import event_of
from esper.nissa import telemetry
from esper.nissa.rows import Values, rows_of

if TYPE_CHECKING:
    import pyarrow
    from clickhouse_connect.driver.client import Client

Unreadable = Callable[[Entry, str], None]
"""Is told which record cannot be read, and why."""


class Columns(NamedTuple):
    """Rows, column by column."""

    names: tuple[str, ...]
    values: Sequence[Sequence[Any]]


class Block(NamedTuple):
    """Rows for one table."""

    table: str
    rows: Columns | pyarrow.Table


def blocks(log_id: str, topic: str, batch: Sequence[Entry], unreadable: Unreadable) -> list[Block]:
    """What records of one topic, in the order in which they lie in their partitions, are in the tables."""
    return (_telemetry if topic == TELEMETRY else _events)(log_id, topic, batch, unreadable)


def insert(client: Client, made: Sequence[Block]) -> None:
    """Write what ``blocks`` has made, in its order."""
    for table, rows in made:
        if isinstance(rows, Columns):
            client.insert(table, rows.values, column_names=rows.names, column_oriented=True)
        else:
            client.insert_arrow(table, rows)


def _events(log_id: str, topic: str, batch: Sequence[Entry], unreadable: Unreadable) -> list[Block]:
    tables: dict[str, list[Values]] = defaultdict(list)
    done: list[Values] = []
    for entry in batch:
        place = {"log": log_id, "partition": entry.position.partition, "offset": entry.position.offset}
        event, error = _decoded(entry)
        if event is None:
            unreadable(entry, error)
        done.append(place | {"topic": topic} | _event_row(entry, event, error))
        if event is not None:
            for number, (table, row) in enumerate(rows_of(event, topic, entry.record.key)):
                tables[table].append(place | {"row": number} | row)
    return [*chain.from_iterable(starmap(_blocks, tables.items())), *_blocks("events", done)]


def _telemetry(log_id: str, topic: str, batch: Sequence[Entry], unreadable: Unreadable) -> list[Block]:
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
            "attempt": 0,
            "epoch": 0,
            "time": entry.timestamp,
            "rows": 0,
            "dropped": 0,
            "error": error,
        }
        if error:
            unreadable(entry, error)
        if event is not None and isinstance(content, StepsMeasured) and not error:
            good.append((entry.record.key, entry.position, content))
            row |= {"attempt": content.attempt, "epoch": event.envelope.epoch or 0, "time": event.envelope.time}
            row |= {"rows": len(content.value), "dropped": content.dropped}
        done.append(row)
    made = [Block("telemetry", telemetry.table(log_id, good))] if good else []
    return [*made, *_blocks("telemetry_batches", done)]


def _blocks(table: str, rows: Sequence[Values]) -> Iterator[Block]:
    """Rows may leave columns out, which then have their defaults; those with the same columns are inserted at once, so
    what says what is done has them all in every row: half of it would leave records out."""
    groups: dict[tuple[str, ...], list[Iterable[Any]]] = defaultdict(list)
    for row in rows:
        groups[tuple(row)].append(row.values())
    for names, values in groups.items():
        yield Block(table, Columns(names, list(zip(*values, strict=True))))


def _decoded(entry: Entry) -> tuple[Event | None, str]:
    """The event, or why there is none."""
    try:
        return event_of(entry), ""
    except DecodeError as error:
        return None, str(error)


def _event_row(entry: Entry, event: Event | None, error: str) -> Values:
    if event is None:
        return _UNREADABLE | {"key": entry.record.key, "time": entry.timestamp, "error": error}
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
        "error": "",
    }


_UNREADABLE: Values = {
    "key": "",
    "type": "",
    "sequence": 0,
    "epoch": 0,
    "time": None,
    "writer": "",
    "id": UUID(int=0),
    "causes": [],
    "payload": "",
    "error": "",
}


def payload(event: Event) -> str:
    """The event's content as JSON."""
    return orjson.dumps(event.content, default=_plain).decode()


def _plain(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"{type(value).__name__} has no JSON form")
