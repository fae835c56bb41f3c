"""The named queries over a million measurements of five runs, and the events of 200 more: answers by formula, in time.

``benchmarks/many_rows.sql`` says what the rows are. Measurements of steps that an attempt does not own are 1000, which
would spoil every answer.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from benchmarks.many_rows import fill
from esper.nissa.clickhouse.named_queries import NamedQuery, all_named, named
from tests.support.services.warehouse import Database, new_database

MEASURED, OTHERS = 5, 200
SECONDS = 5.0
"""That an answer may take: benchmarks/questions.py measures it, this finds what is out of all proportion."""


@dataclass(frozen=True)
class Filled:
    """The database, the steps of a measured run, and the places in it of a seed's birth and end."""

    database: Database
    steps: int

    def born(self, k: int) -> int:
        return k * self.steps // 8 + self.steps // 32

    def alive(self) -> int:
        return self.steps // 16


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    with new_database(tmp_path_factory.mktemp("million") / "clickhouse") as database:
        steps = fill(database.client, 1_000_000, measured=MEASURED, others=OTHERS, noise=0.0)
        yield Filled(database, steps)


def ask(filled: Filled, name: str, **given: str) -> list[dict[str, Any]]:
    query = named(name)
    return filled.database.ask(query.sql, **query.filled(given))


@pytest.mark.parametrize("query", all_named(), ids=lambda query: query.name)
def test_a_million_rows_do_not_keep_a_query_waiting(filled: Filled, query: NamedQuery) -> None:
    for given in ({"run": "run-3"}, {"run": "run-100"}, {}):
        began = time.monotonic()
        assert filled.database.ask(query.sql, **query.filled(given))
        assert time.monotonic() - began < SECONDS


def test_there_are_a_million_rows_and_each_step_counts_once(filled: Filled) -> None:
    [(rows,)] = filled.database.rows("SELECT count() FROM telemetry")
    assert rows >= 1_000_000
    [counted] = filled.database.rows(
        "SELECT count(), uniqExact(run_id, step), max(value) FROM measurements WHERE metric = 'loss'"
    )
    assert counted == (MEASURED * filled.steps, MEASURED * filled.steps, filled.steps / 1000)


def test_the_slowest_sites_of_a_million_rows(filled: Filled) -> None:
    found = ask(filled, "slowest_sites", run="run-2")
    assert len(found) == 4
    for row in found:
        assert (int(row["seeds"]), row["mean_steps"]) == (2, filled.alive())
        assert (row["step_ms"], row["step_ms_without"]) == (250, 125)


def test_the_cost_of_seeds_among_a_million_rows(filled: Filled) -> None:
    [found] = ask(filled, "cost_per_seed", run="run-4")
    assert (int(found["tried"]), int(found["kept"])) == (8, 6)
    assert int(found["alive_steps"]) == 8 * filled.alive()
    assert found["extra_step_seconds"] == pytest.approx(8 * filled.alive() * 0.125, rel=1e-6)


def test_the_loss_around_each_move_among_a_million_rows(filled: Filled) -> None:
    found = ask(filled, "loss_around_germination", run="run-0", stage="GERMINATED", window="50")
    assert [int(row["step"]) for row in found] == [filled.born(k) for k in range(8)]
    for row in found:
        assert (int(row["n_before"]), int(row["n_after"])) == (50, 50)
        assert row["loss_before"] == pytest.approx((int(row["step"]) - 24.5) / 1000, abs=1e-4)
        assert row["change"] == 0.05
        assert row["measured_at"] == "steps"


def test_the_overhead_among_a_million_rows(filled: Filled) -> None:
    mean = (0.25 + 0.125) / 2 * filled.steps
    [found] = ask(filled, "training_overhead", run="run-1")
    assert found["in_steps"] == pytest.approx(mean * int(found["steps"]) / filled.steps)


def test_runs_with_and_without_telemetry_are_told_together(filled: Filled) -> None:
    survival = ask(filled, "seed_survival")
    assert sum(int(row["germinated"]) for row in survival) == 8 * (MEASURED + OTHERS)
    assert sum(int(row["kept"]) for row in survival) == 6 * (MEASURED + OTHERS)
    recoveries = ask(filled, "recovery_times")
    assert sum(row["after"] == "rollback" for row in recoveries) == OTHERS // 10
    assert sum(row["after"] != "rollback" for row in recoveries) == 3 * MEASURED
    assert len(ask(filled, "cost_per_seed")) == MEASURED + OTHERS


def test_rollups_of_a_million_rows_add_up(filled: Filled) -> None:
    for rollup in ("telemetry_minutes", "telemetry_epochs"):
        [(same,)] = filled.database.rows(
            f"SELECT (SELECT sum(n) FROM {rollup}) = count() AND (SELECT max(most) FROM {rollup}) = max(value) "
            "FROM telemetry"
        )
        assert same
