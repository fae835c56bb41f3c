"""What questions cost: a database with 50 million measurements and the events of some 3,000 runs, asked as users ask.

The rows are made in ClickHouse and go through the real tables with their views. Each question is asked of every run
with telemetry in turn, so the first time of each is cold; all is in one process with the engine.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from benchmarks.many_rows import fill
from benchmarks.report import Figure, at_most, temporary_home
from esper.nissa.clickhouse.named_queries import all_named
from esper.nissa.clickhouse.questions import Questions
from esper.nissa.clickhouse.warehouse import EMBEDDED, connect
from esper.nissa.tables.migrate import migrate

TITLE = "named queries over many rows, embedded"
ROWS, MEASURED, OTHERS = 50_000_000, 20, 3_000
"""Measurements, runs that have some, and runs without."""
ROUNDS = 2
BY_METRIC = """
SELECT run_id, count() AS n, avg(value) AS mean FROM measurements WHERE metric = {metric:String} GROUP BY run_id
"""
ROLLUPS = {
    "minutes": "SELECT minute, sum(total) / sum(n) AS mean FROM telemetry_minutes "
    "WHERE run_id = {run:String} AND metric = 'loss' GROUP BY minute ORDER BY minute",
    "epochs": "SELECT epoch, sum(total) / sum(n) AS mean, quantilesTDigestMerge(0.5, 0.95, 0.99)(quantiles) AS of "
    "FROM telemetry_epochs WHERE run_id = {run:String} AND metric = 'loss' GROUP BY epoch ORDER BY epoch",
}
OWNED = {
    "owned minutes": "SELECT minute, total / n AS mean FROM measured_minutes "
    "WHERE run_id = {run:String} AND metric = 'loss' ORDER BY minute",
    "owned epochs": "SELECT epoch, total / n AS mean, quantiles FROM measured_epochs "
    "WHERE run_id = {run:String} AND metric = 'loss' ORDER BY epoch",
}
"""The views make what an attempt owns a part of from its rows."""
SCAN = "SELECT metric, count(), avg(value), max(step) FROM telemetry GROUP BY metric"
SIZE = (
    "SELECT sum(rows), sum(bytes_on_disk) FROM system.parts "
    "WHERE active AND database = currentDatabase() AND table = 'telemetry'"
)
LATENCY, ROLLUP_LATENCY = 1.0, 0.05


def figures(size: int = ROWS) -> list[Figure]:
    with temporary_home() as home:
        url = f"{EMBEDDED}{Path(home).absolute()}/clickhouse"
        with closing(connect(url)) as client:
            migrate(client)
            began = time.perf_counter()
            fill(client, size, measured=MEASURED, others=OTHERS, noise=1.0)
            filled = time.perf_counter() - began
            [(rows, on_disk)] = client.query(SIZE).result_rows
            questions = Questions(url)
            return [
                Figure("rows of telemetry", rows),
                Figure("made with their rollups, seconds", filled),
                Figure("bytes a row on disk", on_disk / rows),
                *named_queries(questions),
                *others(questions, rows),
            ]


def named_queries(questions: Questions) -> list[Figure]:
    """Every one, of each run with telemetry; then of all runs, which is information."""
    found = []
    for query in all_named():
        taken = [_seconds(questions, query.sql, query.filled({"run": run})) for run in _runs()]
        found.append(at_most(f"{query.name}, of a run, p95 in seconds", p95(taken), LATENCY))
        found.append(Figure("  of all runs", _seconds(questions, query.sql, query.filled({}))))
    return found


def others(questions: Questions, rows: int) -> list[Figure]:
    """What is measured by metric, the rollups, and a whole scan."""
    metrics = ("loss", "step_seconds", "alpha", "weight_norm") * ROUNDS
    by_metric = [_seconds(questions, BY_METRIC, {"metric": metric}) for metric in metrics]
    scans = [_seconds(questions, SCAN, {}) for _ in range(3)]
    return [
        at_most("a metric of all runs, p95 in seconds", p95(by_metric), LATENCY),
        *(
            at_most(
                f"{name} of a run's metric, p95 in seconds",
                p95([_seconds(questions, query, {"run": run}) for run in _runs()]),
                limit,
            )
            for of, limit in ((ROLLUPS, ROLLUP_LATENCY), (OWNED, LATENCY))
            for name, query in of.items()
        ),
        Figure("a whole scan, seconds", min(scans)),
        Figure("  rows/s", rows / min(scans)),
    ]


def p95(taken: list[float]) -> float:
    return sorted(taken)[round(0.95 * (len(taken) - 1))]


def _runs() -> list[str]:
    return [f"run-{number}" for number in range(MEASURED)] * ROUNDS


def _seconds(questions: Questions, sql: str, parameters: Mapping[str, str]) -> float:
    began = time.perf_counter()
    questions.answer(sql, parameters, "csv")
    return time.perf_counter() - began
