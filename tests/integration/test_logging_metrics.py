"""What a program measures of itself: on the log once, whatever is killed and when, and the best checkpoint by it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import esper
from esper.errors import UsageError
from esper.events.runs import CheckpointCommitted, MetricsLogged, RunStarted
from esper.tamiyo.proof.verify import verify
from esper.tamiyo.run.fold import fold
from esper.tamiyo.run.state import MetricState, RunState
from esper.tolaria.telemetry.metrics import NAMES
from tests.support.logs.runlog import events, history
from tests.support.runs.training import Loop, contents, host, settings

pytestmark = pytest.mark.usefixtures("one_thread")

Values = list[tuple[int, str, float]]


def logged(home: Path, run_id: str = "run") -> Values:
    """(step, metric, value) in the order of the log."""
    return [
        (step, each.names[metric], value)
        for each in contents(home, MetricsLogged, run_id)
        for metric, step, value in zip(each.metrics, each.steps, each.values, strict=True)
    ]


def state(home: Path, run_id: str = "run") -> RunState:
    return fold(RunState(run_id), events(home, run_id))


class Measuring(Loop):
    """A program that logs after each step, at each epoch's end and at its beginning."""

    def go(self, until: int | None = None, on_batch: Any = None) -> Any:
        run = self.run
        for epoch in run.epochs(self.epochs):
            run.log({"epoch/begun": epoch})
            for batch in run.batches(self.batches):
                loss = run.step(batch)
                run.log({"loss": -1.0})
                run.log({"loss": loss, "step": run.step_number})
                if run.step_number == until:
                    return self.crash()
            run.log({"val/accuracy": accuracy(epoch)})
            if until == -epoch:
                return self.crash()
        return run.finish()


def accuracy(epoch: int) -> float:
    return [0.5, 0.7, 0.9, 0.8, 0.85][epoch]


def whole(home: Path) -> Values:
    loop = Measuring(home)
    loop.begin("whole")
    loop.go()
    return logged(home, "whole")


def test_everything_that_is_logged_is_on_the_log_once_in_order(tmp_path: Path) -> None:
    found = whole(tmp_path)
    assert [each for each in found if each[1] == "step"] == [(step, "step", float(step)) for step in range(1, 41)]
    assert [each for each in found if each[1] == "val/accuracy"] == [
        (8 * (epoch + 1), "val/accuracy", accuracy(epoch)) for epoch in range(5)
    ]
    assert [each[0] for each in found if each[1] == "epoch/begun"] == [0, 8, 16, 24, 32]
    assert all(value > 0 for _, name, value in found if name == "loss")
    assert state(tmp_path, "whole").metrics["val/accuracy"] == MetricState(40, 0.85, 8, 0.5, 24, 0.9, 5)
    assert verify("whole", events(tmp_path, "whole")).ok


@pytest.mark.parametrize("until", [1, 3, 7, 8, 9, 13, -1, 22, -2, 25, 39])
def test_a_crash_anywhere_loses_nothing_and_repeats_nothing(tmp_path: Path, until: int) -> None:
    expected = whole(tmp_path)
    loop = Measuring(tmp_path)
    loop.begin("torn")
    loop.go(until=until)
    loop.resume("torn")
    loop.go()
    assert sorted(logged(tmp_path, "torn")) == sorted(expected)
    assert history(tmp_path, "torn") == history(tmp_path, "whole")
    assert verify("torn", events(tmp_path, "torn")).findings == ()


def test_what_a_replay_measures_otherwise_is_not_compared_and_what_the_log_has_stays(tmp_path: Path) -> None:
    loop = Measuring(tmp_path)
    loop.begin()
    loop.go(until=11)
    before = logged(tmp_path)
    loop.resume()
    run = loop.run
    for _ in run.epochs(loop.epochs):
        for batch in run.batches(loop.batches):
            run.step(batch)
            run.log({"step": 1000.0})
    run.finish()
    after = logged(tmp_path)
    assert after[: len(before)] == before
    assert {value for step, name, value in after if name == "step" and step > 11} == {1000.0}


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (3, 3.0),
        (True, 1.0),
        (np.float32(0.5), 0.5),
        (np.array(2), 2.0),
        (torch.tensor(1.5, requires_grad=True), 1.5),
        (torch.tensor([[2.5]]), 2.5),
        (math.nan, math.nan),
        (-math.inf, -math.inf),
    ],
)
def test_any_one_number_is_taken(tmp_path: Path, value: Any, number: float) -> None:
    loop = Loop(tmp_path, epochs=1)
    loop.begin()
    loop.run.log({"a": value})
    loop.go()
    ((step, name, found),) = logged(tmp_path)
    assert (step, name) == (0, "a")
    assert found == number or (math.isnan(found) and math.isnan(number))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"a": 1.0, "b": "0.9"}, "'b' is a str '0.9'; give one number"),
        ({"a": 1.0, "b": torch.zeros(3)}, r"'b' is a Tensor of shape \[3\]; give one number"),
        ({"a": 1.0, "b": np.zeros((2, 2))}, r"'b' is a ndarray of shape \[2, 2\]"),
        ({"a": 1.0, "b": None}, "'b' is a NoneType None"),
        ({"a": 1.0, "b": 1j}, "'b' is a complex"),
        ({"a": 1.0, "b": torch.tensor(1j)}, "'b' is a Tensor of shape"),
        ({"a": 1.0, "b": torch.tensor(1.0, device="meta")}, "'b' is a Tensor of shape"),
        ({"a": 1.0, "": 1.0}, "'' is no name of a metric"),
        ({"a": 1.0, "two\nlines": 1.0}, "no name of a metric"),
        ({"a": 1.0, "x" * 201: 1.0}, "no name of a metric; use up to 200 printable characters"),
        ({"a": 1.0, 3: 1.0}, "'3' is no name of a metric"),
        ([("a", 1.0)], "run.log takes values by name"),
        ({f"m{number}": 1.0 for number in range(10_000)}, "10,000 different metrics, a run has 1,000 at most"),
    ],
)
def test_anything_else_is_one_line_and_nothing_of_it_is_kept_and_the_run_goes_on(
    tmp_path: Path, values: Any, words: str
) -> None:
    loop = Loop(tmp_path, epochs=1)
    run = loop.begin()
    with pytest.raises(UsageError, match=words) as caught:
        run.log(values)
    assert "\n" not in str(caught.value)
    loop.go()
    assert run.status == "completed"
    assert logged(tmp_path) == []


def test_a_thousand_metrics_are_taken_and_names_may_be_markup(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=1)
    loop.begin()
    names = ["<script>alert(1)</script>", "[red]x[/red]", *(f"m{number}" for number in range(NAMES - 2))]
    loop.run.log(dict.fromkeys(names, 0.5))
    with pytest.raises(UsageError, match="1,001 different metrics"):
        loop.run.log({"one more": 1.0})
    loop.go()
    assert [name for _, name, _ in logged(tmp_path)] == names


def test_a_run_that_is_over_takes_no_more(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=1)
    loop.begin()
    loop.go()
    with pytest.raises(UsageError, match="is completed"):
        loop.run.log({"a": 1.0})


BEST = {"best": "val/accuracy:max"}


def test_the_checkpoint_of_the_best_value_is_kept_and_loaded(tmp_path: Path) -> None:
    loop = Measuring(tmp_path, settings=settings(checkpoint={"steps": 6, "keep": 1}))
    run = loop.begin(**BEST)
    assert run._trainer is not None
    model = run._trainer.subject.model
    weights: dict[int, torch.Tensor] = {}

    def remember(values: Any, log: Any = run.log) -> None:
        weights[run.step_number] = model[0].weight.detach().clone()
        log(values)

    run.log = remember  # type: ignore[method-assign]
    loop.go()
    assert contents(tmp_path, RunStarted)[0].best == "val/accuracy:max"
    kept = {each.step: each.reason for each in state(tmp_path).checkpoints}
    assert kept[24] == "epoch,best"
    assert sorted(kept)[0] == 0
    assert len(kept) <= 4
    other = esper.load("run", host(), at="best", home=tmp_path)
    assert torch.equal(other[0].weight, weights[24])  # type: ignore[index, arg-type]
    assert verify("run", events(tmp_path)).ok


@pytest.mark.parametrize("until", [20, -2, 25, 33])
def test_a_crash_does_not_lose_the_best(tmp_path: Path, until: int) -> None:
    loop = Measuring(tmp_path, settings=settings(checkpoint={"steps": 6, "keep": 1}))
    loop.begin(**BEST)
    loop.go(until=until)
    loop.resume()
    loop.go()
    assert 24 in {each.step for each in state(tmp_path).checkpoints}
    esper.load("run", host(), at="best", home=tmp_path)
    assert verify("run", events(tmp_path)).findings == ()


def test_a_value_between_two_epochs_ends_has_its_checkpoint_as_well(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=2, settings=settings(checkpoint={"steps": 100, "keep": 1}))
    run = loop.begin(best="loss:min")
    for _ in run.epochs(2):
        for batch in run.batches(loop.batches):
            run.step(batch)
            if run.step_number in (3, 5, 11):
                run.log({"loss": {3: 1.0, 5: 2.0, 11: 0.5}[run.step_number]})
    run.finish()
    reasons = {each.step: each.reason for each in contents(tmp_path, CheckpointCommitted)}
    assert (reasons[3], reasons[11]) == ("best", "best")
    assert 5 not in reasons
    assert 3 not in {each.step for each in state(tmp_path).checkpoints}


def test_a_best_by_a_metric_that_was_never_logged_says_what_was(tmp_path: Path) -> None:
    loop = Measuring(tmp_path, epochs=1)
    loop.begin(best="acuracy:max")
    loop.go()
    with pytest.raises(
        UsageError, match=r"by the metric 'acuracy', of which nothing was logged; logged were: .*accuracy"
    ):
        esper.load("run", host(), at="best", home=tmp_path)


@pytest.mark.parametrize("best", ["accuracy", ":max", "accuracy:highest", ""])
def test_a_best_that_says_nothing_is_refused(tmp_path: Path, best: str) -> None:
    with pytest.raises(UsageError, match='write "NAME:max" or "NAME:min"'):
        Loop(tmp_path).begin(best=best)
    assert not (tmp_path / "log.db").exists()
