"""The named queries, asked of three small runs whose every number was chosen, so that the answers can be computed by
hand: they are in the tests' tables."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from esper.errors import AnalyticsError
from esper.events import runs
from esper.log import open_log
from esper.log.port import Log
from esper.nissa.clickhouse.named_queries import NamedQuery, all_named, named
from esper.nissa.sink.sink import Sink
from tests.support.runs.stories import Story
from tests.support.runs.training import Loop, contents
from tests.support.services.warehouse import Database, new_database

LOW, MLP, CONV = "low_rank@0", "mlp@1", "conv@2"
SITES = ("in", "mid", "out")
WRONG = 1000.0
"""A measurement of a step that its attempt does not own: it spoils whatever uses it."""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A database that has caught up with the three runs."""
    folder = tmp_path_factory.mktemp("named")
    with new_database(folder / "clickhouse") as database:
        log = open_log(f"sqlite:///{folder / 'log.db'}")
        crashed_and_rolled_back(log)
        paused_without_telemetry(log)
        only_kept(log)
        Sink(database.client, log).catch_up()
        log.close()
        yield database


def crashed_and_rolled_back(log: Log) -> None:
    """Run ``a``: one seed is kept, one culled, one removed by a rollback at step 115; killed behind step 125."""
    run = Story(log, "a", *SITES)
    run.boundary(10, seconds=2.0)
    run.decide(10, "germinate", "in", LOW, measured={"seconds": 0.001})
    run.boundary(20)
    run.birth(20, "in#1", LOW, parameters=100, seconds=0.02)
    for step, stage in ((30, "TRAINING"), (40, "BLENDING"), (50, "HOLDING"), (60, "FOSSILISED")):
        run.boundary(step)
        run.move(step, "in#1", stage)
    run.decide(60, "germinate", "mid", MLP, measured={"seconds": 0.003})
    run.boundary(70)
    run.birth(70, "mid#1", MLP, parameters=500, seconds=0.04)
    run.boundary(80)
    run.move(80, "mid#1", "TRAINING")
    run.boundary(90)
    run.move(90, "mid#1", "CULLED")
    run.decide(90, "germinate", "out", CONV, measured={"seconds": 0.002})
    run.boundary(100)
    run.refuse(90, 100)
    run.decide(100, "germinate", "mid", LOW, measured={"seconds": 0.005})
    run.boundary(110)
    run.birth(110, "mid#2", LOW, parameters=100, seconds=0.06)
    run.decide(110, measured={"seconds": 0.004})
    run.roll_back(115, 100, "mid#2", at=115.5)
    run.boundary(120)
    run.resume(200, 115, seconds=3.0)
    run.boundary(130, at=215)
    run.resume(224, 115, reopened=True)
    run.boundary(140, at=225)
    for attempt, steps in ((1, range(1, 116)), (2, range(116, 126)), (3, range(116, 141))):
        owned = attempt != 2
        run.measure(attempt, "step_seconds", {step: _seconds(step) if owned else WRONG for step in steps})
        run.measure(attempt, "loss", {step: _loss(step) if owned else WRONG for step in steps})
    run.measure(1, "step_seconds", {116: WRONG, 117: WRONG})  # of an attempt that the rollback had ended
    end = runs.RunCompleted(step=140, final_loss=1.0, test={}, parameters_digest="", seeds={})
    run.tell(226, end)


def _seconds(step: int) -> float:
    if 20 < step <= 60:  # in#1 lives
        return 0.3
    if 70 < step <= 90 or 110 < step <= 115:  # mid#1, mid#2
        return 0.5
    return 0.1


def _loss(step: int) -> float:
    return math.nan if step == 25 else float(step)


def paused_without_telemetry(log: Log) -> None:
    """Run ``b``: a rollback takes back that mid#1 was kept, and then it is culled; out#1 lives on."""
    run = Story(log, "b", *SITES, at=1000)
    for step in range(10, 130, 10):
        run.boundary(step, at=1000 + step, loss=step / 10, seconds=None)
        match step:
            case 20:
                run.birth(20, "in#1", LOW, parameters=300, seconds=None)
                run.decide(20, issuer="tamiyo", measured={"waited": 0.1, "latency": 0.25})
            case 30:
                run.decide(30, issuer="tamiyo")
            case 50:
                run.move(50, "in#1", "BLENDING")
            case 60:
                run.move(60, "in#1", "FOSSILISED")
            case 70:
                run.birth(70, "mid#1", LOW, parameters=300, seconds=0.03)
                run.move(70, "mid#1", "HOLDING")
            case 90:
                run.move(90, "mid#1", "FOSSILISED")
                run.roll_back(95, 85, at=1095)
            case 100:
                run.move(100, "mid#1", "CULLED", back_in="HOLDING")
            case 110:
                run.birth(110, "out#1", CONV, parameters=50, seconds=0.01)
            case 120:
                run.tell(1121, runs.RunPaused(step=120, reason="Ctrl-C"))
                run.resume(1181, 120, seconds=2.0)


def only_kept(log: Log) -> None:
    """Run ``c``: five seeds, all kept, two of them alike."""
    run = Story(log, "c", *SITES, at=2000)
    seeds = {"in#1": LOW, "mid#1": LOW, "out#1": MLP, "in#2": MLP, "in#3": LOW}
    for number, (seed, blueprint) in enumerate(seeds.items()):
        run.boundary(10 + number, seconds=None)
        run.birth(10 + number, seed, blueprint, parameters=100, seconds=0.1)
        run.move(10 + number, seed, "FOSSILISED")


def ask(database: Database, name: str, **given: str) -> list[dict[str, Any]]:
    """The answer as users get it; numbers that JSON has as texts are numbers."""
    query = named(name)
    rows = database.ask(query.sql, **query.filled(given))
    return [{column: _number(value) for column, value in row.items()} for row in rows]


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.isdigit() else value


def columns(rows: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in rows]


@pytest.mark.parametrize("query", all_named(), ids=lambda query: query.name)
def test_every_query_is_asked_without_parameters_and_of_one_run(told: Database, query: NamedQuery) -> None:
    everything = told.ask(query.sql, **query.filled({}))
    one = told.ask(query.sql, **query.filled({"run": "a"}))
    assert everything
    assert one
    assert {row["run_id"] for row in one if "run_id" in row} <= {"a"}
    assert told.ask(query.sql, **query.filled({"run": "no such run"})) == []


def test_seed_survival(told: Database) -> None:
    names = ("blueprint", "depth", "germinated", "kept", "culled", "alive", "survival")
    assert columns(ask(told, "seed_survival"), *names) == [
        (LOW, 0, 4, 4, 0, 0, 1),
        (MLP, 0, 1, 1, 0, 0, 1),
        (LOW, 1, 2, 1, 1, 0, 0.5),  # c's mid#1, and b's, whose keeping was taken back; a's mid#2 was removed
        (MLP, 1, 1, 0, 1, 0, 0),
        (CONV, 2, 1, 0, 0, 1, None),
        (MLP, 2, 1, 1, 0, 0, 1),
    ]
    assert columns(ask(told, "seed_survival", run="a"), "blueprint", "depth", "survival") == [(LOW, 0, 1), (MLP, 1, 0)]


def test_cost_per_seed(told: Database) -> None:
    found = ask(told, "cost_per_seed")
    assert columns(found, "run_id", "tried", "kept", "alive_steps", "steps_per_kept") == [
        ("a", 3, 1, 40 + 20 + 5, 65),
        ("b", 3, 1, 40 + 30 + 10, 80),
        ("c", 5, 5, 0, 0),
    ]
    assert columns(found, "parameters", "parameters_per_kept") == [(100, 100), (300, 300), (500, 100)]
    assert columns(found, "extra_step_seconds", "compile_seconds", "seconds_per_kept") == [
        (40 * 0.2 + 25 * 0.4, 0.12, 18.12),
        (None, 0.04, None),
        (None, 0.5, None),
    ]


def test_decision_latency(told: Database) -> None:
    names = ("decided_by", "decisions", "measured", "p50_ms", "p95_ms", "p99_ms", "longest_ms")
    assert columns(ask(told, "decision_latency"), *names) == [
        ("tamiyo", 2, 1, 250, 250, 250, 250),
        ("trainer", 5, 5, 3, 4.8, 4.96, 5),
    ]
    assert columns(ask(told, "decision_latency", run="a"), *names) == [("trainer", 5, 5, 3, 4.8, 4.96, 5)]


def test_training_overhead(told: Database) -> None:
    steps = 40 * 0.3 + 25 * 0.5 + 75 * 0.1  # of 140
    assert columns(ask(told, "training_overhead"), "run_id", "steps", "seconds", "in_steps", "in_esper", "share") == [
        ("a", 110 + 10, 110 + 10, round(120 * steps / 140, 3), 11 * 0.5 + 0.5, 0.05),
        ("b", 110, 110, None, None, None),
        ("c", 4, 4, None, None, None),
    ]


def test_loss_around_germination(told: Database) -> None:
    names = ("seed", "stage", "step", "loss_before", "loss_after", "n_before", "n_after", "measured_at")
    found = ask(told, "loss_around_germination", run="a", window="10")
    assert columns(found, *names) == [
        ("in#1", "GERMINATED", 20, 15.5, round((255 - 25) / 9, 4), 10, 9, "steps"),  # without the NaN of step 25
        ("in#1", "BLENDING", 40, 35.5, 45.5, 10, 10, "steps"),
        ("in#1", "FOSSILISED", 60, 55.5, 65.5, 10, 10, "steps"),
        ("mid#1", "GERMINATED", 70, 65.5, 75.5, 10, 10, "steps"),
        ("mid#2", "GERMINATED", 110, 105.5, 115.5, 10, 10, "steps"),  # 116 to 120 were run again
    ]
    assert columns(found, "change")[1:] == [(10,)] * 4


def test_loss_around_germination_without_telemetry(told: Database) -> None:
    names = ("seed", "step", "loss_before", "loss_after", "change", "n_before", "n_after", "measured_at")
    assert columns(ask(told, "loss_around_germination", run="b", stage="GERMINATED", window="20"), *names) == [
        ("in#1", 20, 1.5, 3.5, 2, 2, 2, "boundaries"),
        ("mid#1", 70, 6.5, 8.5, 2, 2, 2, "boundaries"),
        ("out#1", 110, 10.5, 12, 1.5, 2, 1, "boundaries"),
    ]
    (alone,) = ask(told, "loss_around_germination", run="b", stage="BLENDING", window="5")
    assert columns([alone], *names) == [("in#1", 50, 5, None, None, 1, 0, "boundaries")]


def test_architecture_diversity(told: Database) -> None:
    names = ("run_id", "kept", "blueprints", "sites", "score", "blueprint_bits", "site_bits")
    assert columns(ask(told, "architecture_diversity"), *names) == [
        ("c", 5, 2, 3, 1.922, 0.971, 1.371),  # of 5: 2 1 1 1; 3 2; 3 1 1
        ("a", 1, 1, 1, 0, 0, 0),
        ("b", 1, 1, 1, 0, 0, 0),
    ]


def test_adaptation_success(told: Database) -> None:
    found = ask(told, "adaptation_success")
    names = ("run_id", "decided", "no_kernel", "germinated", "kept", "lost", "rolled_back", "undone")
    assert columns(found, *names) == [
        ("a", 4, 1, 3, 1, 2, 1, 0),
        ("b", 0, 0, 3, 1, 1, 0, 1),
        ("c", 0, 0, 5, 5, 0, 0, 0),
    ]
    assert columns(found, "success_rate", "rollback_rate", "rollbacks", "rollbacks_per_1000_steps") == [
        (0.333, 0.333, 1, 7.143),
        (0.5, 0, 1, 8.333),
        (1, 0, 0, 0),
    ]


def test_kernel_compile_latency(told: Database) -> None:
    names = ("blueprint", "compiled", "rejected", "p50_ms", "p95_ms", "p99_ms", "longest_ms")
    assert columns(ask(told, "kernel_compile_latency", run="a"), *names) == [
        (LOW, 2, 0, 40, 58, 59.6, 60),
        (MLP, 1, 0, 40, 40, 40, 40),
        (CONV, 0, 1, None, None, None, None),
    ]
    assert columns(ask(told, "kernel_compile_latency"), "blueprint", "compiled", "rejected", "p50_ms") == [
        (MLP, 3, 0, 100),
        (LOW, 7, 0, 80),  # 20, 30, 60 and three times 100 ms; one was not measured
        (CONV, 1, 1, 10),
    ]


def test_recovery_times(told: Database) -> None:
    names = ("run_id", "after", "from_step", "away_seconds", "loading_seconds", "again_seconds", "seconds")
    assert columns(ask(told, "recovery_times"), *names) == [
        ("a", "rollback", 100, None, None, 4.5, 4.5),
        ("a", "crash", 115, 80, 3, 15, 95),
        ("a", "lost writer", 115, 9, None, 1, 10),
        ("b", "rollback", 85, None, None, 5, 5),
        ("b", "pause", 120, 60, 2, None, None),  # no boundary yet
    ]


def test_slowest_sites(told: Database) -> None:
    names = ("site", "seeds", "mean_steps", "mean_seconds", "step_ms", "step_ms_without")
    assert columns(ask(told, "slowest_sites", run="a"), *names) == [
        ("in", 1, 40, 40, 300, 100),
        ("mid", 2, 12.5, (20 + 5.5) / 2, 500, 100),
    ]
    assert [row["site"] for row in ask(told, "slowest_sites", run="a", limit="1")] == ["in"]
    assert columns(ask(told, "slowest_sites", run="b"), "step_ms", "step_ms_without") == [(None, None)] * 3


def test_what_became_of_each_seed(told: Database) -> None:
    columns = "seed, stage, born_step, ended_step, ended_from, ended_by"
    query = f"SELECT {columns} FROM seeds WHERE run_id = {{run:String}} ORDER BY born_step"
    assert told.rows(query, run="a") == [
        ("in#1", "FOSSILISED", 20, 60, "HOLDING", "gate"),
        ("mid#1", "CULLED", 70, 90, "TRAINING", "gate"),
        ("mid#2", "REMOVED", 110, 115, "", "rollback"),
    ]
    assert told.rows(query, run="b") == [
        ("in#1", "FOSSILISED", 20, 60, "BLENDING", "gate"),
        ("mid#1", "CULLED", 70, 100, "HOLDING", "gate"),
        ("out#1", "GERMINATED", 110, None, "", ""),
    ]


def test_which_policies_have_decided(told: Database) -> None:
    made = "SELECT policy, version, uniqExact(run_id), count() FROM decisions WHERE outcome = 'made' GROUP BY ALL"
    columns = "policy, version, runs, decisions, acted <= decisions, first_time <= last_time"
    found = told.rows(f"SELECT {columns} FROM policies")
    assert found == [(*row, True, True) for row in told.rows(made)]
    assert found


def test_a_parameter_of_the_wrong_type_is_one_line(told: Database) -> None:
    with pytest.raises(AnalyticsError) as told_so:
        ask(told, "slowest_sites", limit="many")
    assert "\n" not in str(told_so.value)
    assert "limit" in str(told_so.value)
    assert ask(told, "slowest_sites", run="a")  # it does not spoil what is asked next


def test_a_trainer_measures_what_is_asked_for(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    loop.torn(14)
    for kind in (runs.BoundaryReached, runs.DecisionMade, runs.RunResumed):
        found = [each.measured["seconds"] for each in contents(tmp_path, kind, "torn")]
        assert found
        assert all(0 < seconds < 60 for seconds in found)


def test_a_boundary_tells_of_all_time_between_steps_since_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = count()  # each look at the clock takes a second
    monkeypatch.setattr("esper.tolaria.trainer.time", SimpleNamespace(perf_counter=lambda: float(next(looks))))
    loop = Loop(tmp_path, epochs=1)
    loop.begin()
    loop.go()
    found = contents(tmp_path, runs.BoundaryReached)
    assert [each.step for each in found] == [4, 8]
    # One second before each of the steps 1 to 4, and one until the boundary is made, which leaves two to the next.
    assert [each.measured["seconds"] for each in found] == [4 + 1, 2 + 3 + 1]
