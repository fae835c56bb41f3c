"""The log in ClickHouse, embedded: telemetry and events per second, from the bytes on the log to rows with rollups.

Bare inserts are of Arrow tables that are ready, into the same tables with the same views, in the same process.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from clickhouse_connect.driver.client import Client

from benchmarks.kafka import _records, boundary
from benchmarks.log import RUN, start
from benchmarks.report import Figure, at_least, temporary_home
from benchmarks.spine import demo_task, under_esper
from esper.events.telemetry import StepsMeasured
from esper.events.topics import RUNS, TELEMETRY
from esper.log import open_log
from esper.log.port import Log, Position
from esper.log.records import telemetry_record
from esper.nissa.clickhouse.warehouse import EMBEDDED, connect
from esper.nissa.sink.sink import Sink
from esper.nissa.tables import telemetry
from esper.nissa.tables.migrate import migrate
from esper.settings import settings_from

TITLE = "from the log to ClickHouse, embedded, one process"
METRICS = ("loss", "step_seconds", "learning_rate", "alpha", "gradient_norm")
ROWS = 5000
"""Of a batch on the log, which is the trainer's default."""


def figures() -> list[Figure]:
    with temporary_home() as home:
        client = connect(f"{EMBEDDED}{Path(home).absolute()}/clickhouse")
        migrate(client)
        with closing(open_log(f"sqlite:///{home}/log.db")) as log:
            return [*measurements(client, log), *events(client, log), *demo_mix(client, log, f"{home}/demo")]


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


def events(client: Client, log: Log, count: int = 40_000, rounds: int = 3) -> list[Figure]:
    """Boundaries of some 300 bytes."""
    rates = []
    for number in range(rounds):
        writer = log.open_writer(f"{RUN}-{number}")
        writer.append(_records(writer, [start()], 0))
        for first in range(0, count, 1000):
            writer.append(_records(writer, map(boundary, range(first, first + 1000)), first + 1))
        writer.close()
        rates.append(count / _seconds(log, client))
    return [at_least("events of 300 bytes, events/s", statistics.median(rates), 20_000)]


def demo_mix(client: Client, log: Log, home: str, copies: int = 100, rounds: int = 3) -> list[Figure]:
    """The events of the demo's run, as those of many runs."""
    task = demo_task()
    run, steps = under_esper(task, home, settings=settings_from(task.settings))
    deque(islice(steps, task.epochs * task.steps_per_epoch), maxlen=0)
    run.finish()
    with closing(open_log(f"sqlite:///{home}/log.db")) as demo:
        records = [entry.record for entry in demo.read(RUNS)]
    rates = []
    for number in range(rounds):
        for copy in range(copies):
            writer = log.open_writer(f"demo-{number}-{copy}")
            writer.append([replace(record, key=writer.run_id) for record in records])
            writer.close()
        rates.append(copies * len(records) / _seconds(log, client))
    size = statistics.mean(len(record.value) for record in records)
    return [
        Figure("events of the demo's mix, events/s", statistics.median(rates)),
        Figure("  bytes of one of them on the log", size),
    ]


def _seconds(log: Log, client: Client) -> float:
    """What a sink takes for what has come."""
    sink = Sink(client, log)
    sink.begin_all()
    began = time.perf_counter()
    sink.advance()
    return time.perf_counter() - began


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
        series_metric=tuple(range(metrics)),
        series_site=(-1, -1, -1, 0, 0),
        series_length=(steps,) * metrics,
        at=tuple(range(steps)) * metrics,
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
