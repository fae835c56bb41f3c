"""What is different between runs, as far as their logs say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from esper.events.runs import DataFile, RunStarted
from esper.tamiyo.proof.differences import PROGRAM, Differences, Row, differences
from esper.tamiyo.run.state import MetricState, RunState
from tests.support.runs.histories import ENVIRONMENT, History

STARTED: RunStarted = History().events[0].content  # type: ignore[assignment]


def compared(*changes: dict[str, Any], **both: Any) -> Differences:
    """Runs like STARTED, with ``both`` in all and one of ``changes`` in each."""
    begun = [replace(STARTED, **{**both, **each}) for each in changes]
    return differences([(each, RunState(f"run-{number}")) for number, each in enumerate(begun)])


def test_runs_that_began_alike_differ_in_nothing() -> None:
    found = compared({}, {})
    assert (found.runs, found.rows) == (("run-0", "run-1"), ())
    assert found.known == f"All that is on the log of their beginnings is the same; {PROGRAM}."
    assert set(found.same) == {"settings", "data", "versions", "model", "start"}
    assert found.same["start"] == ("task", "seed", "best")
    assert compared({}, {}, task="{}").known == (
        "They began with all the same: task, data, model, settings, seed and versions."
    )


@pytest.mark.parametrize(
    ("change", "row"),
    [
        ({"seed": 1}, Row("start", "seed", (0, 1))),
        ({"task": "{}"}, Row("start", "task", (None, "{}"))),
        ({"best": "loss:min"}, Row("start", "best", (None, "loss:min"))),
        ({"rules": 9}, Row("versions", "rules", (1, 9))),
        ({"environment": replace(ENVIRONMENT, threads=4)}, Row("versions", "threads", (1, 4))),
        ({"optimizer": "Adam"}, Row("model", "optimizer", ("SGD", "Adam"))),
        ({"clip_norm": 1.0}, Row("model", "clip_norm", (None, 1.0))),
        ({"parameters_digest": "f" * 64}, Row("model", "initial weights", ("00", "f" * 12))),
        ({"gate": None}, Row("data", "gate data", ("ab", None))),
        ({"data": (DataFile(name="train", sha256="a" * 64),)}, Row("data", "train", (None, "a" * 12))),
        ({"params": '{"lr": {"first": 0.1}}'}, Row("params", "lr.first", (None, 0.1))),
    ],
)
def test_what_a_run_was_given_otherwise_is_a_row(change: dict[str, Any], row: Row) -> None:
    found = compared({}, change)
    assert found.rows == (row,)
    assert found.known == f"They began with different {row.group}; {PROGRAM}."


def test_of_settings_the_option_that_differs_is_named() -> None:
    found = compared({}, {"settings": History("boundary.steps=25").settings.model_dump_json()})
    assert found.rows == (Row("settings", "boundary.steps", (10, 25)),)
    assert "policy.warmup" in found.same["settings"]


def test_shapes_and_types_of_a_model_are_shown_in_short() -> None:
    small = replace(STARTED.model, shapes=((2,),), dtypes=("float64",))
    assert compared({}, {"model": small}).rows == (
        Row("model", "parameters and buffers", ('[[[100, 10], [10]], ["float32"… 41e2e705', '[[[2]], ["float64"]]')),
    )


def test_models_that_differ_far_behind_their_first_parameters_differ() -> None:
    shapes = tuple((64, 64) for _ in range(6))
    one = replace(STARTED.model, shapes=shapes, dtypes=("float32",) * 6)
    other = replace(one, shapes=(*shapes[:-1], (64, 32)))
    (row,) = compared({"model": one}, {"model": other}).rows
    assert (row.group, row.name) == ("model", "parameters and buffers")


def test_all_groups_that_differ_are_listed_once() -> None:
    found = compared({}, {"seed": 1, "best": "loss:min", "optimizer": "Adam", "rules": 2})
    assert found.known == f"They began with different versions, model and start; {PROGRAM}."


def test_any_run_that_differs_from_the_first_makes_a_row() -> None:
    assert compared({}, {}, {"seed": 3}).rows == (Row("start", "seed", (0, 0, 3)),)


def test_results_are_what_each_run_came_to() -> None:
    one = RunState("one", status="completed", step=50, epoch=1, loss=0.5, final_loss=0.25, test={"accuracy": 0.9})
    history = History("policy.cooldown=0")
    history.boundary(10, loss=0.75)
    history.grown("a", 10)
    other = replace(history.state, metrics={"val": MetricState.first(1, 3.0).then(2, 1.0).then(3, 2.0)})
    found = differences([(STARTED, one), (STARTED, other)])
    assert found.results == (
        Row("result", "status", ("completed", "running")),
        Row("result", "steps", (50, 10)),
        Row("result", "epochs at the last boundary", (2, 2)),
        Row("result", "training loss", (0.25, 0.75)),
        Row("result", "seeds", ("none", "1 germinated")),
        Row("test", "accuracy", (0.9, None)),
        Row("last", "val", (None, 2.0)),
        Row("least", "val", (None, 1.0)),
        Row("greatest", "val", (None, 3.0)),
    )
