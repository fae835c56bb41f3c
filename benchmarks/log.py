"""The embedded log: appending against bare SQLite inserts, reading against bare Avro decoding.

The bare inserts put the same values into the same columns, of a table without an index in a file of its own, with
the same pragmas (WAL, synchronous FULL), 100 rows to a durable transaction. They get their bytes ready made, and so
does the append that they are compared with; what it takes to make an event's record (id, envelope, headers, Avro
body) from its content is part of the events per second and of the second ratio.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest import mock

import apsw
from fastavro import schemaless_reader

from benchmarks.report import Figure, at_least, temporary_home
from esper.events import RunContent
from esper.events.runs import BoundaryReached, Environment, ModelDescription, RunStarted, SiteTable
from esper.events.topics import RUNS
from esper.log import open_log, ordering
from esper.log.chain import chained, first_link
from esper.log.exclusions import run_events
from esper.log.headers import pack
from esper.log.port import Log, Record, Writer
from esper.log.records import run_record
from esper.tamiyo.run.fold import fold
from esper.tamiyo.run.state import RunState

TITLE = "the embedded log, one writer, durable transactions of 100 events"
RUN, BATCH = "run-4f2a9c", 100


def boundary(step: int) -> BoundaryReached:
    """A boundary's event; its record has a value of about 300 bytes."""
    digest = hashlib.sha256(b"%d" % step).hexdigest()
    return BoundaryReached(
        step=step,
        epoch=step // 500,
        batch=step % 500,
        loss=1.0 / (step + 1),
        learning_rate=1e-3,
        digest=digest,
        tensors=digest[:32].encode(),
        data=digest[:32],
        first_data=digest[32:],
        sites=None,
        health=None,
        trials=(),
        measured={"seconds": 0.25},
    )


def start() -> RunStarted:
    """A run's first event, of a model without sites."""
    return RunStarted(
        task=None,
        seed=0,
        settings="{}",
        model=ModelDescription(names=(), shapes=(), dtypes=()),
        optimizer="SGD",
        sites=SiteTable(names=(), kinds=(), dims=(), reasons=(), blueprints=(), costs=()),
        gate=None,
        data=(),
        environment=Environment(python="", torch="", device="cpu", capability="", threads=1, deterministic=True),
        parameters_digest="",
    )


def figures() -> list[Figure]:
    return [*append(), *read_decode_fold(), *chain()]


def append(rounds: int = 300, warm_up: int = 20) -> list[Figure]:
    """Appends and bare inserts of the same 100 rows in turns; ratios are medians over the rounds."""
    making: list[float] = []
    appending: list[float] = []
    bare: list[float] = []
    with temporary_home() as home, closing(open_log(f"sqlite:///{home}/log/log.db")) as log:
        writer = log.open_writer(RUN)
        plain = _bare_table(Path(home) / "bare.db")
        for number in range(rounds + warm_up):
            contents = [boundary(number * BATCH + place) for place in range(BATCH)]
            begin = time.perf_counter()
            records = _records(contents, writer, number * BATCH)
            made = time.perf_counter()
            writer.append(records)
            done = time.perf_counter()
            rows = [_row(record) for record in records]
            making.append(made - begin)
            appending.append(done - made)
            bare.append(_seconds(partial(_insert, plain, rows)))
        plain.close()
    making, appending, bare = making[warm_up:], appending[warm_up:], bare[warm_up:]
    whole = [each + other for each, other in zip(making, appending, strict=True)]
    return [
        Figure("bytes of a value", len(records[0].value)),
        Figure("bytes of its headers", len(pack(records[0].headers))),
        Figure("bare inserts, rows/s", BATCH / statistics.median(bare)),
        at_least("append, of bare inserts of the same bytes", _ratio(bare, appending), 0.3),
        Figure("append with the making of its records, of the same", _ratio(bare, whole)),
        at_least("append with the making of its records, events/s", BATCH / statistics.median(whole), 5000),
    ]


def read_decode_fold(events: int = 20_000, rounds: int = 7) -> list[Figure]:
    """Reading a run, checking its order, decoding and folding it, against decoding the same values alone."""
    ours: list[float] = []
    bare: list[float] = []
    with temporary_home() as home, closing(open_log(f"sqlite:///{home}/log.db")) as log:
        writer = log.open_writer(RUN)
        writer.append(_records([start()], writer, 0))
        for first in range(0, events, BATCH):
            writer.append(_records(map(boundary, range(first, first + BATCH)), writer, first + 1))
        entries = list(log.read(RUNS, RUN))
        values, parsed = [entry.record.value for entry in entries[1:]], entries[-1].record.schema.parsed
        del entries
        for _ in range(rounds):
            ours.append(_seconds(partial(_folded, log, RUN)))
            bare.append(_seconds(lambda: [schemaless_reader(BytesIO(value), parsed, None) for value in values]))
    return [
        Figure("bare fastavro decoding, events/s", events / statistics.median(bare)),
        Figure("read, order, decode and fold, events/s", events / statistics.median(ours)),
        at_least("read, order, decode and fold, of bare decoding", _ratio(bare, ours), 0.5),
    ]


def chain(events: int = 20_000, rounds: int = 15) -> list[Figure]:
    """What the chain costs, against the same run without links, for which nothing is hashed: appending two events to a
    transaction, as trainers do at a boundary, and 100; and order and fold."""
    ordering_, without = list[float](), list[float]()
    with temporary_home() as home, closing(open_log(f"sqlite:///{home}/log.db")) as log:
        few = _ratio(*_appended(log, "few", events // 10, 2))
        many = _ratio(*_appended(log, "many", events, BATCH))
        for _ in range(rounds):
            ordering_.append(_seconds(partial(_folded, log, "many")))
            with mock.patch.object(ordering, "digest", _unhashed):
                without.append(_seconds(partial(_folded, log, "many-plain")))
    return [
        at_least("append of 2 chained events, of the same without links", few, 0.95),
        Figure("append of 100 chained events, of the same without links", many),
        at_least(
            "order, decode and fold of a chained run, of the same without links", _ratio(without, ordering_), 0.95
        ),
    ]


def _appended(log: Log, run_id: str, events: int, batch: int) -> tuple[list[float], list[float]]:
    """The seconds of each transaction without links, and with them."""
    plain, linked = list[float](), list[float]()
    link, writer, other = first_link(run_id), log.open_writer(run_id), log.open_writer(f"{run_id}-plain")
    for first in range(0, events, batch):
        contents = [start() if number == 0 else boundary(number) for number in range(first, first + batch)]
        begin = time.perf_counter()
        records, link = chained(_records(contents, writer, first), link)
        writer.append(records)
        done = time.perf_counter()
        other.append(_records(contents, other, first))
        plain.append(time.perf_counter() - done)
        linked.append(done - begin)
    return plain, linked


def _folded(log: Log, run_id: str) -> RunState:
    return fold(RunState(run_id), (event for _, event in run_events(log, run_id)))


def _unhashed(record: Record) -> bytes:
    return b""


def _ratio(bare: list[float], ours: list[float]) -> float:
    """The speed of ours as a share of the bare one's: the median over the pairs."""
    return statistics.median(each / other for each, other in zip(bare, ours, strict=True))


def _records(contents: Iterable[RunContent], writer: Writer, after: int) -> list[Record]:
    run_id, epoch = writer.run_id, writer.epoch
    return [
        run_record(run_id, content, epoch=epoch, sequence=number, writer="trainer", time=datetime.now(UTC))
        for number, content in enumerate(contents, after + 1)
    ]


def _bare_table(path: Path) -> apsw.Connection:
    connection = apsw.Connection(str(path))
    connection.pragma("journal_mode", "wal")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(
        "CREATE TABLE bare (offset INTEGER PRIMARY KEY, stream INTEGER, schema INTEGER, value BLOB, headers BLOB, "
        "timestamp INTEGER, epoch INTEGER, sequence INTEGER)"
    )
    return connection


def _row(record: Record) -> tuple[Any, ...]:
    return None, 1, 1, record.value, pack(record.headers), 1_800_000_000_000, record.epoch, record.sequence


def _insert(connection: apsw.Connection, rows: list[tuple[Any, ...]]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany("INSERT INTO bare VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
    connection.execute("COMMIT")


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
