"""Records of the log as rows of the tables: decoded, put into columns, inserted. ``events`` and
``telemetry_batches`` come last, for what they hold of a partition is what has been done."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import orjson

from esper.errors import DecodeError
from esper.events import Event
from esper.events.telemetry import StepsMeasured
from esper.events.topics import TELEMETRY
from esper.log.port import Entry
from esper.log.records import event_of
from esper.nissa.tables import telemetry
from esper.nissa.tables.rows import LARGE, SMALL, Row, Values, rows_of

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
    typed, done = _Rows(log_id, ("partition", "offset", "row")), _Rows(log_id, ("partition", "offset", "topic"))
    for entry in batch:
        partition, offset = entry.position.partition, entry.position.offset
        event, error = _decoded(entry)
        rows: list[Row] = []
        if event is not None:
            try:
                rows = rows_of(event, topic, entry.record.key)
            except DecodeError as failure:
                error = str(failure)
        if error:
            unreadable(entry, error)
        for number, (table, row) in enumerate(rows):
            typed.add(table, (partition, offset, number), row)
        done.add("events", (partition, offset, topic), _event_row(entry, event, error))
    return [*typed.blocks(), *done.blocks()]


def _telemetry(log_id: str, topic: str, batch: Sequence[Entry], unreadable: Unreadable) -> list[Block]:
    good: list[telemetry.Batch] = []
    done = _Rows(log_id, ("partition", "offset"))
    for entry in batch:
        event, error = _decoded(entry)
        content = event.content if event is not None else None
        if isinstance(content, StepsMeasured):
            error = telemetry.check(content)
        row: Values = {
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
            row |= {"attempt": content.attempt, "time": event.envelope.time, "dropped": content.dropped}
            row |= {"rows": len(content.value), "epoch": _within(event.envelope.epoch, SMALL)}
        done.add("telemetry_batches", (entry.position.partition, entry.position.offset), row)
    made = [Block("telemetry", telemetry.table(log_id, good))] if good else []
    return [*made, *done.blocks()]


class _Rows:
    """Rows of records of one log, each of them with its ``place``.

    Rows may leave columns out, which then have their defaults; those with the same columns are inserted at once, so
    what says what is done has them all in every row: half of it would leave records out.
    """

    def __init__(self, log_id: str, place: tuple[str, ...]) -> None:
        self._log_id, self._place = log_id, place
        self._rows: dict[tuple[str, tuple[str, ...]], list[tuple[Any, ...]]] = defaultdict(list)

    def add(self, table: str, place: tuple[Any, ...], row: Values) -> None:
        self._rows[table, tuple(row)].append((*place, *row.values()))

    def blocks(self) -> Iterator[Block]:
        for (table, names), rows in self._rows.items():
            values = [[self._log_id] * len(rows), *zip(*rows, strict=True)]
            yield Block(table, Columns(("log", *self._place, *names), values))


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
        "sequence": _within(envelope.sequence, LARGE),
        "epoch": _within(envelope.epoch, SMALL),
        "time": envelope.time,
        "writer": envelope.writer,
        "id": envelope.id,
        "causes": list(envelope.causes),
        "link": event.link.hex() if event.link else "",
        "payload": payload(event),
        "error": error,
    }


def _within(number: int | None, most: int) -> int:
    """0 for a number that there is not, or that is none that Esper counts."""
    return number if number is not None and 0 <= number <= most else 0


_UNREADABLE: Values = {
    "key": "",
    "type": "",
    "sequence": 0,
    "epoch": 0,
    "time": None,
    "writer": "",
    "id": UUID(int=0),
    "causes": [],
    "link": "",
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
