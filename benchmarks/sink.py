"""The log in ClickHouse, embedded: telemetry and events per second, from the bytes on the log to rows with rollups.

Bare inserts are of Arrow tables that are ready, into the same tables with the same views, in the same process.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from clickhouse_connect.driver.client import Client

from benchmarks.kafka import _records, boundary
from benchmarks.log import RUN, start
from benchmarks.report import Figure, at_least, temporary_home
from esper.events.telemetry import StepsMeasured
from esper.log import open_log
from esper.log.port import TELEMETRY, Log, Position
from esper.log.records import telemetry_record
from esper.nissa import telemetry
from esper.nissa.migrate import migrate
from esper.nissa.sink import Sink
from esper.nissa.warehouse import EMBEDDED, connect

TITLE = "from the log to ClickHouse, embedded, one process"
METRICS = ("loss", "step_seconds", "learning_rate", "alpha", "gradient_norm")
ROWS = 5000
"""Of a batch on the log, which is the trainer's default."""


def figures() -> list[Figure]:
    with temporary_home() as home:
        client = connect(f"{EMBEDDED}{Path(home).absolute()}/clickhouse")
        migrate(client)
        with closing(open_log(f"sqlite:///{home}/log.db")) as log:
            return [*measurements(client, log), *events(client, log)]


def measurements(client: Client, log: Log, batches: int = 400, rounds: int = 3) -> list[Figure]:
    """``batches`` of 5,000 rows on the log, and as many rows bare, in turns."""
    ours, bare, plain = [], [], []
    sink, epoch = Sink(client, log), 0
    sink.begin_all()
    client.command("CREATE TABLE plain AS telemetry")
    for _ in range(rounds):
        contents = [batch(epoch + number) for number in range(batches)]
        for number, content in enumerate(contents):
            log.signal(telemetry_record(RUN, content, epoch=1, number=epoch + number, time=datetime.now(UTC)))
        began = time.perf_counter()
        sink.advance()
        ours.append(time.perf_counter() - began)
        tables = [_table(contents[first : first + 40], epoch + first) for first in range(0, batches, 40)]
        bare.append(_inserting(client, "telemetry", tables))
        plain.append(_inserting(client, "plain", tables))
        epoch += batches
    rows = batches * ROWS
    return [
        at_least("telemetry, rows/s with rollups", rows / statistics.median(ours), 300_000),
        at_least(
            "  of bare Arrow inserts into the same tables",
            statistics.median(b / o for b, o in zip(bare, ours, strict=True)),
            0.6,
        ),
        Figure("  of bare inserts into a table without rollups", statistics.median(plain) / statistics.median(ours)),
    ]


def events(client: Client, log: Log, count: int = 40_000) -> list[Figure]:
    """Boundaries of some 300 bytes."""
    writer, sink = log.open_writer(RUN), Sink(client, log)
    writer.append(_records(writer, [start()], 0))
    for first in range(0, count, 1000):
        writer.append(_records(writer, map(boundary, range(first, first + 1000)), first + 1))
    sink.begin_all()
    began = time.perf_counter()
    sink.advance()
    return [at_least("events of 300 bytes, events/s", count / (time.perf_counter() - began), 20_000)]


def batch(number: int) -> StepsMeasured:
    """Measurements of 1,000 steps."""
    steps, metrics = ROWS // len(METRICS), len(METRICS)
    first = number * steps
    rng = np.random.default_rng(number)
    return StepsMeasured(
        attempt=1,
        dropped=0,
        metrics=METRICS,
        sites=("in#1",),
        steps=tuple(range(first, first + steps)),
        epochs=(first // 10_000,) * steps,
        times=tuple(int(time.time() * 1e6) + 10_000 * step for step in range(first, first + steps)),
        at=tuple(np.repeat(np.arange(steps), metrics).tolist()),
        metric=tuple(range(metrics)) * steps,
        site=(-1, -1, -1, 0, 0) * steps,
        value=tuple(rng.normal(size=ROWS).tolist()),
    )


def _table(contents: Sequence[StepsMeasured], first: int) -> pa.Table:
    return telemetry.table(
        "bare", [(RUN, Position(TELEMETRY, 0, first + number), content) for number, content in enumerate(contents)]
    )


def _inserting(client: Client, table: str, tables: Sequence[pa.Table]) -> float:
    began = time.perf_counter()
    for each in tables:
        client.insert_arrow(table, each)
    return time.perf_counter() - began
