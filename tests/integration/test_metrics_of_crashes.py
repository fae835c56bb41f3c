"""Metrics of programs that crash, pause, stop and fail at any place: each value is on the log once."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from esper.errors import Fenced, RunEnded, TrainingFailed
from esper.events.runs import CheckpointCommitted, MetricsLogged, RunCancelled, RunFailed, RunPaused
from esper.log.sqlite.log import SqliteWriter
from esper.tamiyo.proof.verify import verify
from tests.integration.test_signals import at, send
from tests.support.runs.training import Loop, contents, events, settings

pytestmark = pytest.mark.usefixtures("one_thread")
Logged = dict[str, list[tuple[int, float]]]


class Crash(Exception):
    pass


def logged(home: Path, run_id: str = "run") -> Logged:
    """By name, every (step, value) on the log, in its order."""
    found: Logged = {}
    for content in contents(home, MetricsLogged, run_id):
        for metric, step, value in zip(content.metrics, content.steps, content.values, strict=True):
            found.setdefault(content.names[metric], []).append((step, value))
    return found


def train(loop: Loop, at_place: Callable[[str, int], None] = lambda where, step: None) -> None:
    """A loop that logs before and after each step, and after an epoch; ``at_place`` may crash it anywhere."""
    run = loop.run
    for epoch in run.epochs(loop.epochs):
        for batch in run.batches(loop.batches):
            run.log({"before": run.step_number})
            at_place("before", run.step_number)
            loss = run.step(batch)
            at_place("stepped", run.step_number)
            run.log({"mine/loss": loss, "rate": 1.0})
            run.log({"rate": 0.1 * run.step_number})
            at_place("logged", run.step_number)
            for each in loop.stateful.values():
                each.step()
        run.log({"val/acc": 0.1 * epoch, "val/second": -1})
        at_place("epoch", run.step_number)
    run.log({"done": 1})
    at_place("done", run.step_number)
    run.finish(test=lambda model: run.log({"in the test": 2}) or {"weight": 1.0})


def begun(home: Path, **more: Any) -> Loop:
    loop = Loop(home, epochs=3, settings=settings(boundary={"steps": 5}, checkpoint={"steps": 7}))
    loop.begin(**more)
    return loop


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Logged:
    home, threads = tmp_path_factory.mktemp("whole"), torch.get_num_threads()
    torch.set_num_threads(1)
    train(begun(home))
    torch.set_num_threads(threads)
    assert verify("run", events(home)).ok
    return logged(home)


def test_each_value_is_on_the_log_with_the_step_after_which_it_was_logged(whole: Logged) -> None:
    assert [step for step, _ in whole["mine/loss"]] == list(range(1, 25))
    assert whole["rate"] == [(step, 0.1 * step) for step in range(1, 25)]
    assert whole["before"] == [(step, float(step)) for step in range(24)]
    assert whole["val/acc"] == [(8, 0.0), (16, 0.1), (24, 0.2)]
    assert whole["done"] == [(24, 1.0)]
    assert whole["in the test"] == [(24, 2.0)]


@pytest.mark.parametrize("place", ["before", "stepped", "logged", "epoch", "done"])
@pytest.mark.parametrize("step", [0, 1, 4, 5, 6, 7, 8, 9, 15, 16, 20, 21, 24])
def test_no_value_is_lost_and_none_there_twice_after_a_crash(
    tmp_path: Path, whole: Logged, place: str, step: int
) -> None:
    crashed = False

    def crash(where: str, now: int) -> None:
        nonlocal crashed
        if not crashed and (where, now) == (place, step):
            crashed = True
            raise Crash

    loop = begun(tmp_path)
    try:
        train(loop, crash)
    except Crash:
        loop.crash()
        loop.resume()
        train(loop, crash)
    assert logged(tmp_path) == whole
    assert verify("run", events(tmp_path)).findings == ()


@pytest.mark.parametrize("last", range(2, 17))
def test_nothing_is_lost_wherever_the_log_was_cut(
    tmp_path: Path, whole: Logged, last: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    appended, append = 0, SqliteWriter.append

    def cut(self: SqliteWriter, records: Any) -> Any:
        nonlocal appended
        appended += 1
        if appended > last:
            raise Fenced("run", 2)
        return append(self, records)

    loop = begun(tmp_path)
    monkeypatch.setattr(SqliteWriter, "append", cut)
    with suppress(Fenced):
        train(loop)
    monkeypatch.undo()
    assert appended > last or last > 12  # how many checkpoints are committed at once is the disk's affair
    loop.crash()
    loop.resume()
    train(loop)
    assert logged(tmp_path) == whole
    assert verify("run", events(tmp_path)).findings == ()


def test_a_checkpoint_never_comes_before_what_was_logged_up_to_its_step(tmp_path: Path) -> None:
    train(begun(tmp_path))
    seen: set[tuple[str, int]] = set()
    checkpoints = 0
    for content in (event.content for event in events(tmp_path)):
        if isinstance(content, MetricsLogged):
            seen |= {(content.names[m], step) for m, step in zip(content.metrics, content.steps, strict=True)}
        if isinstance(content, CheckpointCommitted) and content.step:
            checkpoints += 1
            assert {("mine/loss", step) for step in range(1, content.step + 1)} <= seen
            assert {("val/acc", step) for step in (8, 16, 24) if step < content.step} <= seen
    assert checkpoints > 3


def test_a_pause_by_ctrl_c_loses_nothing(tmp_path: Path, whole: Logged) -> None:
    loop = begun(tmp_path)

    def interrupt(where: str, step: int) -> None:
        if (where, step) == ("logged", 11):
            loop.run._interrupted.set()

    with pytest.raises(RunEnded, match="paused at step 11"):
        train(loop, interrupt)
    order = [type(event.content) for event in events(tmp_path)]
    assert order.index(RunPaused) == len(order) - 1
    assert logged(tmp_path)["mine/loss"] == whole["mine/loss"][:11]
    loop.resume()
    train(loop)
    assert logged(tmp_path) == whole
    assert verify("run", events(tmp_path)).findings == ()


def test_a_stop_keeps_what_was_logged_until_then(tmp_path: Path) -> None:
    loop = begun(tmp_path)
    stop = at(loop, 9, lambda: send(tmp_path, "stop"))
    with pytest.raises(RunEnded, match="cancelled at step 10"):
        train(loop, lambda where, step: stop(step + 1, None) if where == "before" else None)
    assert [step for step, _ in logged(tmp_path)["mine/loss"]] == list(range(1, 11))
    assert len(contents(tmp_path, RunCancelled)) == 1
    assert verify("run", events(tmp_path)).findings == ()


def test_a_failed_run_keeps_what_was_logged_until_then(tmp_path: Path) -> None:
    loop = begun(tmp_path)

    def train() -> None:
        for _ in loop.run.epochs(3):
            for x, y in loop.run.batches(loop.batches):
                loop.run.log({"loss": loop.run.step((x * (math.nan if loop.run.step_number >= 6 else 1.0), y))})

    with pytest.raises(TrainingFailed):
        train()
    values = logged(tmp_path)["loss"]
    assert [step for step, _ in values] == list(range(1, len(values) + 1))
    assert math.isnan(values[6][1])
    assert math.isnan(values[-1][1])
    (failed,) = contents(tmp_path, RunFailed)
    assert failed.step == values[-1][0]
    assert verify("run", events(tmp_path)).findings == ()
