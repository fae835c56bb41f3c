"""ClickHouse's tables filled while the log grows, then made anew from the whole log: equal, and how long each takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from clickhouse_connect.driver.client import Client

from benchmarks.kafka import _records
from benchmarks.log import boundary, start
from benchmarks.report import Figure, at_most, temporary_home
from benchmarks.sink import batch
from esper.events.runs import CheckpointCommitted, DecisionMade, SeedTransitioned
from esper.events.topics import TOPICS
from esper.log import open_log
from esper.log.port import Log
from esper.log.records import telemetry_record
from esper.nissa.clickhouse.warehouse import EMBEDDED, connect
from esper.nissa.sink.audit import audit
from esper.nissa.sink.sink import Sink
from esper.nissa.tables.migrate import migrate

TITLE = "ClickHouse's tables made anew from the log, embedded, one process"
EVENTS, RUNS, AT_ONCE = 1_000_000, 8, 1000
TELEMETRY = 2_000
"""Events for each batch of 5,000 measurements."""
CHUNKS = 20
"""In so many parts the log grows."""


def figures(size: int = EVENTS) -> list[Figure]:
    with temporary_home() as home:
        url = f"{EMBEDDED}{Path(home).absolute()}/clickhouse"
        with closing(connect(url)) as client, closing(open_log(f"sqlite:///{home}/log.db")) as log:
            migrate(client)
            sink, lived = Sink(client, log), 0.0
            sink.begin_all()
            for _ in growing(log, size):
                lived += _seconds(sink.advance)
            live = digests(client)
            again = _seconds(Sink(client, log).rebuild)
            made = digests(client)
            checked = [each for each in audit(client, log) if not each.agree]
    rows = sum(rows for rows, _ in live.values())
    return [
        Figure("events", live["events"][0]),
        Figure("rows in all tables", rows),
        Figure("filled live, seconds", lived),
        Figure("made anew, seconds", again),
        Figure("  events/s", live["events"][0] / again),
        Figure("tables compared", len(live)),
        at_most("tables whose rows or digests differ from those filled live", _differing(live, made), 0),
        at_most("tables and rollups that differ from the log", len(checked), 0),
    ]


def growing(log: Log, count: int) -> Iterator[None]:
    """Have ``count`` events and their telemetry come onto ``log``, of runs in turn; yields after each part."""
    writers = [log.open_writer(f"run-{number}") for number in range(RUNS)]
    streams = [contents() for _ in writers]
    sequences, batches, written = [0] * RUNS, 0, 0
    for part in range(CHUNKS):
        for run in range(RUNS):
            left = count * (part * RUNS + run + 1) // (CHUNKS * RUNS) - written
            written += left
            while left > 0:
                events = list(islice(streams[run], min(left, AT_ONCE)))
                writers[run].append(_records(writers[run], events, sequences[run]))
                sequences[run] += len(events)
                left -= len(events)
        while batches < written // TELEMETRY:
            content, now = batch(batches), datetime.now(UTC)
            log.signal(telemetry_record(f"run-{batches % RUNS}", content, epoch=1, number=batches, time=now))
            batches += 1
        yield


def contents() -> Iterator[Any]:
    """A run's events: of ten, six boundaries, two decisions, a transition and a checkpoint."""
    yield start()
    step = 0
    while True:
        step += 1
        yield boundary(step)
        if step % 3 == 0:
            yield _decision(step)
        if step % 6 == 0:
            yield _transition(step)
            yield CheckpointCommitted(
                step=step, manifest="0" * 64, reason="steps", sequence=step, size=step, measured={"seconds": 0.05}
            )


def digests(client: Client) -> dict[str, tuple[int, int]]:
    """For each table that a record fills: how many rows, and a digest of them all, in any order."""
    tables = sorted({table for topic in TOPICS.values() for table in topic.tables})
    query = "SELECT count(), groupBitXor(cityHash64(toString(tuple(*)))) FROM {table:Identifier} FINAL"
    found = {table: client.query(query, parameters={"table": table}).result_rows[0] for table in tables}
    return {table: (int(rows), int(digest)) for table, (rows, digest) in found.items()}


def _differing(live: dict[str, tuple[int, int]], made: dict[str, tuple[int, int]]) -> int:
    return sum(made[table] != of for table, of in live.items())


def _decision(step: int) -> DecisionMade:
    return DecisionMade(
        decision=f"{step}/1",
        step=step,
        policy="heuristic",
        version="1",
        observation="",
        action="wait",
        site=None,
        blueprint=None,
        seed=None,
        propensity=0.9,
        alternatives=(),
        reason="no site is worth it now",
        issuer=None,
        measured={"seconds": 0.001},
    )


def _transition(step: int) -> SeedTransitioned:
    return SeedTransitioned(
        site="in",
        seed=f"in#{step}",
        blueprint="low_rank@0",
        kernel="0" * 64,
        from_stage="DORMANT",
        to_stage="GERMINATED",
        step=step,
        cause="decision",
        gate=None,
        evidence=None,
    )


def _seconds(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
