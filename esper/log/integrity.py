"""Whether a log holds what was written to it: every record against its checksum and its headers, every run's chain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import apsw

from esper.errors import DecodeError, Disordered, LogError, UsageError
from esper.events import Event
from esper.events.encoding.schemas import schema_from_json
from esper.events.exclusions import RecordExcluded
from esper.events.topics import ASSETS, DEADLETTER, EVENTS, RUNS
from esper.log.chain import LINK
from esper.log.claims import miscounted
from esper.log.exclusions import Passed, excluded, meant, noting, struck
from esper.log.ordering import Excluded, Order
from esper.log.partitions import partition_of
from esper.log.port import Entry, Log, Position
from esper.log.records import event_of
from esper.log.sqlite.checksums import checksum, checksum_of_schema
from esper.log.sqlite.log import SqliteLog


@dataclass(frozen=True, slots=True)
class Damage:
    """Something that is not what was written: the run that it is about, if it is one's, where it lies, and what follows
    from it, in words."""

    run_id: str | None
    place: str
    what: str


@dataclass(slots=True)
class Checked:
    """What was looked at; ``orders`` are the runs as far as they can be read, ``stopped`` those not read to the end,
    ``damaged`` the records that are not what was written by their checksums, and under which key."""

    records: int = 0
    unsummed: int = 0
    orders: dict[str, Order] = field(default_factory=dict)
    stopped: set[str] = field(default_factory=set)
    findings: list[Damage] = field(default_factory=list)
    damaged: dict[Position, str] = field(default_factory=dict)

    def find(self, run_id: str | None, place: object, what: str) -> None:
        """Add a finding; ``what`` need not begin with the run's name, which goes into ``run_id``."""
        self.findings.append(Damage(run_id, str(place), what.removeprefix(f"run {run_id}: ")))


def check_log(log: Log, run_id: str | None) -> Checked:
    """Look at all that ``log`` holds, or at what it holds of one run and of blueprints."""
    found = Checked()
    if isinstance(log, SqliteLog):
        _check_file(log, found)
        _check_rows(log, run_id, found)
    out = excluded(log)
    for topic in EVENTS:
        key = None if topic == ASSETS else run_id
        for entry in struck(log.read(topic, key=key), out) if topic == RUNS else log.read(topic, key=key):
            found.records += 1
            _check_entry(entry, found)
    _check_runs(log, run_id, out, found)
    _check_counts(log, found)
    for position, key in found.damaged.items():
        what = _follows(position, key, out, found)
        if what is not None:
            run = None if position.topic == ASSETS else key
            found.find(run, position, f"the record is not what was written, by its checksum; {what}")
    return found


def _follows(position: Position, key: str, out: Excluded, found: Checked) -> str | None:
    """What a damaged record brings about, and what helps; None where it does not count any more."""
    copy = "restore the log from a copy"
    if position.topic != RUNS:
        return copy
    order = found.orders.get(key)
    if order is None:
        return copy
    counts = order.has(position)
    if not counts and any((run, place) == (key, position) for run, place, _ in out):
        return None
    exclude = f"`esper dlq exclude {position} --why TEXT` takes it out, and all that follows"
    if key in found.stopped or order.mark.position == position:
        return f"{copy}, or go on without it: {exclude}"
    if not counts:
        return f"no reader takes it for an event; {exclude}"
    return f"its body is as the event behind it says, so no reader is told another thing; {copy}"


def _check_counts(log: Log, found: Checked) -> None:
    """What the log counts of each run, against what is there."""
    for run_id, order in found.orders.items():
        counted = None if run_id in found.stopped else log.counted(run_id)
        wrong = None if counted is None else miscounted(run_id, counted, order, order.left)
        if wrong is not None:
            found.find(run_id, "its count", str(wrong))


def _check_entry(entry: Entry, found: Checked) -> None:
    """Whether what lies beside the body says the same as the body. Runs' records that cannot be read at all are told
    with their run."""
    record, topic = entry.record, entry.position.topic
    try:
        event = event_of(entry)
    except DecodeError as error:
        if topic not in (RUNS, DEADLETTER):
            run_id = None if topic == ASSETS else record.key
            found.find(
                run_id, entry.position, f"the record cannot be read ({error}); it counts as if it were not there"
            )
        return
    if isinstance(event.content, RecordExcluded):
        try:
            meant(record.key, event.content)
        except (UsageError, ValueError) as error:
            found.find(record.key, entry.position, f"it takes nothing out, for it names no record ({error})")
    headers = dict(record.headers)
    absent = b"" if topic == RUNS else None  # what others send may be without headers
    wrong = [name for name, value in _expected(entry, event).items() if headers.get(name, absent) not in (value, None)]
    envelope = event.envelope
    if topic == RUNS and (record.epoch, record.sequence) != (envelope.epoch, envelope.sequence):
        wrong.append("its place in the run")
    if wrong:
        what = f"{', '.join(wrong)} beside the record is not what its body says: one of the two is damaged or forged"
        found.find(None if topic == ASSETS else record.key, entry.position, what)


def _expected(entry: Entry, event: Event) -> dict[str, bytes]:
    """Headers by name, as far as the event tells them."""
    told = {"ce_id": str(event.envelope.id).encode(), "ce_type": entry.record.schema.name.encode()}
    told |= {"ce_time": event.envelope.time.isoformat().encode(), "ce_subject": entry.record.key.encode()}
    return told | ({LINK: event.link.hex().encode()} if event.link is not None else {})


def _check_runs(log: Log, run_id: str | None, out: Excluded, found: Checked) -> None:
    """Whether each run can be read to its end, and what is none of its events."""
    passed: list[Passed] = []
    for entry in log.read(RUNS, key=run_id):
        key = entry.record.key
        if key not in found.orders:
            found.orders[key] = Order(excluded=out, unreadable=noting(passed))
        if key in found.stopped:
            continue
        try:
            found.orders[key].take(entry)
        except Disordered as error:
            found.stopped.add(key)
            _stop(error, entry, found)
        for each in passed:
            found.find(key, each.position, str(each))
        passed.clear()
    for key, order in found.orders.items():
        try:
            order.end()
        except LogError as error:
            found.stopped.add(key)
            found.find(key, "its end", str(error))
        if order.sequence == 0 and key not in found.stopped:
            found.stopped.add(key)
            found.find(key, "its beginning", "none of its records counts as an event")


def _stop(error: Disordered, entry: Entry, found: Checked) -> None:
    found.find(entry.record.key, entry.position, f"{error}; the run can be read to the event before")


def _check_file(log: SqliteLog, found: Checked) -> None:
    """SQLite's own structures, and the schemas of records."""
    path = log.database.path
    with log.database.session() as connection:
        told = [str(line) for (line,) in connection.execute("PRAGMA integrity_check(20)")]
        sums = _sums(connection)
        columns = "id, CAST(fingerprint AS BLOB), CAST(json AS BLOB), sum"
        query = f"SELECT {columns} FROM schemas LEFT JOIN {sums} ON offset = -id"
        schemas: list[Any] = connection.execute(query).fetchall()
    for line in told:
        if line != "ok":
            found.find(None, path, f"the file's structure is damaged ({line}); restore it, or copy its runs out")
    for number, *texts, total in schemas:
        fingerprint, text = map(_text, texts)
        try:
            if schema_from_json(text).fingerprint == fingerprint and total in (None, checksum_of_schema(text)):
                continue
            said = "is another than was written"
        except (DecodeError, TypeError, ValueError) as error:
            said = f"cannot be read ({error})"
        what = f"schema {number} {said}, and with it every record that was written by it; restore the file"
        found.find(None, path, what)


_ROWS = """
SELECT CAST(topic AS BLOB), partition, CAST(key AS BLOB), offset, CAST(fingerprint AS BLOB), value, headers, timestamp,
epoch, sequence, sum
FROM records JOIN streams ON streams.id = stream JOIN schemas ON schemas.id = schema LEFT JOIN {sums} USING (offset)
WHERE ? IS NULL OR key = ? ORDER BY offset
"""


_UNHELD = "SELECT offset FROM {sums} WHERE offset >= 0 EXCEPT SELECT offset FROM records"
_HOLES = """
SELECT before, offset FROM (SELECT offset, lag(offset, 1, 0) OVER (ORDER BY offset) AS before FROM records)
WHERE before < offset - 1
"""
"""No record is ever deleted, so every offset from 1 on is there."""


def _sums(connection: apsw.Connection) -> str:
    """The table of checksums, or an empty one where an older Esper made the file."""
    there = connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'sums'").get
    return "sums" if there else "(SELECT 0 AS offset, 0 AS sum WHERE false)"


def _check_rows(log: SqliteLog, run_id: str | None, found: Checked) -> None:
    """Every record against its checksum."""
    bare: dict[str, list[Position]] = {}
    with log.database.session() as connection:
        sums = _sums(connection)
        for row in connection.execute(_ROWS.format(sums=sums), (run_id, run_id)):
            topic, partition, key, offset, fingerprint, *rest, total = row
            topic, key = _text(topic), _text(key)
            position = Position(topic, partition, offset)
            if total is None:
                found.unsummed += 1
                if topic == RUNS and isinstance(rest[1], bytes) and LINK.encode() in rest[1]:
                    bare.setdefault(key, []).append(position)
            elif not _is_sum(total, (topic, key, _text(fingerprint), *rest)) or partition != partition_of(key):
                found.damaged[position] = key
        unheld = [offset for (offset,) in connection.execute(_UNHELD.format(sums=sums))]
        holes = [(before + 1, offset - 1) for before, offset in connection.execute(_HOLES)]
        lost = connection.execute(
            "SELECT count(*) FROM records WHERE stream NOT IN (SELECT id FROM streams) "
            "OR schema NOT IN (SELECT id FROM schemas)"
        ).get
    if lost:
        found.find(
            None, log.database.path, f"{lost} records belong to no key or schema that is there; restore the file"
        )
    behind = (offset for offset in unheld if not any(first <= offset <= last for first, last in holes))
    for first, last in [*holes, *_ranges(behind)]:
        where = f"the record at offset {first} is" if first == last else f"the records at offsets {first} to {last} are"
        found.find(None, log.database.path, f"{where} gone; restore the log from a copy")
    for key, places in bare.items():
        what = (
            f"{len(places)} events from here on are chained but have no checksum: another program put them there, or "
            "took it away; compare the log with a copy"
        )
        found.find(key, places[0], what)


def _ranges(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The first and the last of each row of numbers without a hole."""
    ordered = sorted(numbers)
    for _, group in groupby(enumerate(ordered), key=lambda each: each[1] - each[0]):
        row = [number for _, number in group]
        yield row[0], row[-1]


def _text(value: object) -> str:
    """What a column of text holds, whatever that is."""
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def _is_sum(total: object, fields: tuple[Any, ...]) -> bool:
    try:
        return bool(checksum(*fields) == total)
    except (TypeError, AttributeError):  # a column holds another kind of value than was written
        return False
