"""What a run opens it closes: its log's files and its threads, however it ends and however start or resume fail."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import esper
from esper.errors import DataMismatch, ModelMismatch, RunExists, RunUnusable, TrainingFailed, UsageError
from esper.events.runs import RunCompleted, RunResumed
from esper.log import open_log
from esper.log.port import Log
from esper.tolaria import assembly
from esper.tolaria.trainer import Trainer
from tests.support.runs.training import Loop, contents, events, history

pytestmark = pytest.mark.usefixtures("one_thread")


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("esper-")}


def files(home: Path) -> set[str]:
    """Files below ``home`` that this process has open."""
    found = set()
    for each in Path("/proc/self/fd").iterdir():
        try:
            found.add(os.readlink(each))
        except FileNotFoundError:  # the listing's own
            continue
    return {path for path in found if path.startswith(str(home))}


@pytest.fixture
def is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], bool]]:
    """Whether nothing is open; it was not when the test began either. Logs outlive their runs, so that none is closed
    by being forgotten alone."""
    logs: list[Log] = []

    def kept(url: str) -> Log:
        logs.append(open_log(url))
        return logs[-1]

    monkeypatch.setattr(assembly, "open_log", kept)
    assert not threads()
    yield lambda: not threads() and not files(tmp_path)
    assert not threads()
    assert not files(tmp_path)


Closed = Callable[[], bool]


def test_a_run_at_work_has_threads_and_its_log_open_and_closed_none(tmp_path: Path, is_closed: Closed) -> None:
    run = Loop(tmp_path).begin()
    assert threads() >= {"esper-journal", "esper-inbox", "esper-telemetry"}
    assert str(tmp_path / "log.db") in files(tmp_path)
    run.close()
    assert is_closed()


def test_a_completed_run_is_closed_and_still_tells_what_it_was(tmp_path: Path, is_closed: Closed) -> None:
    loop = Loop(tmp_path, epochs=2)
    run = loop.begin()
    summary = loop.go()
    assert is_closed()
    run.close()
    assert run.status == "completed"
    assert run.summary() == summary == run.finish()
    assert run.step_number == 16
    assert run.events_written == run.state.sequence == len(events(tmp_path))
    assert list(run.metrics())


def test_a_run_that_was_closed_says_so_stays_running_and_is_resumed_to_the_same_end(
    tmp_path: Path, is_closed: Closed
) -> None:
    loop = Loop(tmp_path, epochs=2)
    whole = loop.whole()
    run = loop.begin("torn")
    loop.go(until=11)
    run.close()
    assert is_closed()
    assert (run.status, run.state.step) == ("running", 8)
    assert run.summary()["status"] == "running"
    assert list(run.metrics())
    for call in (lambda: run.step(None), run.finish, lambda: next(run.epochs(2)), lambda: run.batches(loop.batches)):
        with pytest.raises(UsageError, match=r"torn was closed.*go on with esper\.resume\('torn'"):
            call()
    assert contents(tmp_path, RunCompleted, "torn") == []
    loop.resume("torn")
    loop.go()
    assert history(tmp_path, "torn") == whole


def test_leaving_the_block_closes_a_run_and_one_that_is_not_finished_says_so(
    tmp_path: Path, is_closed: Closed, caplog: pytest.LogCaptureFixture
) -> None:
    loop = Loop(tmp_path, epochs=1)
    with caplog.at_level(logging.WARNING, "esper"):
        with loop.begin() as run:
            batches = run.batches(loop.batches)
            run.step(next(batches))
        assert is_closed()
        with pytest.raises(UsageError, match="was closed"):
            next(batches)
        assert f"run {run.run_id} is not finished; go on with esper.resume" in caplog.text
        caplog.clear()
        with loop.resume():
            loop.go()
    assert caplog.text == ""
    assert is_closed()
    assert (len(contents(tmp_path, RunResumed)), len(contents(tmp_path, RunCompleted))) == (1, 1)


def test_leaving_the_block_by_an_exception_leaves_the_run_as_a_crash_would(
    tmp_path: Path, is_closed: Closed, caplog: pytest.LogCaptureFixture
) -> None:
    loop = Loop(tmp_path, epochs=2)
    whole = loop.whole()
    with caplog.at_level(logging.WARNING, "esper"), pytest.raises(ZeroDivisionError), loop.begin("torn"):
        loop.go(on_batch=lambda step, batch: batch if step < 11 else 1 / 0)
    assert caplog.text == ""  # the exception says it
    assert is_closed()
    loop.resume("torn")
    loop.go()
    assert history(tmp_path, "torn") == whole


def test_a_run_that_fails_is_closed(tmp_path: Path, is_closed: Closed) -> None:
    loop = Loop(tmp_path, state=lambda optimizer: {}, epochs=1)
    run = loop.begin()
    with pytest.raises(TrainingFailed):
        loop.go(on_batch=lambda step, batch: [batch[0] * torch.nan, batch[1]])
    assert is_closed()
    assert run.status == "failed"
    with pytest.raises(RunUnusable):
        loop.resume()
    assert is_closed()


def test_a_run_that_is_forgotten_is_closed(tmp_path: Path, is_closed: Closed) -> None:
    loop = Loop(tmp_path)
    loop.begin()
    del loop
    assert is_closed()


def test_a_start_that_is_refused_leaves_nothing_open(tmp_path: Path, is_closed: Closed) -> None:
    loop = Loop(tmp_path, epochs=1)
    loop.begin("mine").close()
    with pytest.raises(RunExists):
        loop.begin("mine")
    assert is_closed()
    with pytest.raises(UsageError):
        loop.begin("other", sites=["nowhere"])
    assert is_closed()


@pytest.mark.parametrize("part", ["load", "tree"])
def test_a_start_or_resume_that_breaks_half_way_leaves_nothing_open(
    tmp_path: Path, is_closed: Closed, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def broken(self: Trainer, *_: Any) -> Any:
        raise MemoryError("no memory for it")

    loop = Loop(tmp_path, epochs=1)
    loop.begin().close()
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, part, broken)
        with pytest.raises(MemoryError):
            loop.resume()
        assert is_closed()
        if part == "tree":
            with pytest.raises(MemoryError):
                loop.begin("other")
            assert is_closed()
    loop.resume()
    loop.go()


def test_a_start_whose_name_was_taken_meanwhile_leaves_nothing_open(
    tmp_path: Path, is_closed: Closed, monkeypatch: pytest.MonkeyPatch
) -> None:
    Loop(tmp_path).begin("mine").close()
    monkeypatch.setattr(assembly, "begun", lambda log, run_id: False)
    with pytest.raises(RunExists, match="by another process just now"):
        Loop(tmp_path).begin("mine")
    assert is_closed()


def test_a_resume_with_another_model_or_other_data_leaves_nothing_open(tmp_path: Path, is_closed: Closed) -> None:
    loop = Loop(tmp_path, epochs=1)
    loop.begin().close()
    with pytest.raises(ModelMismatch):
        Loop(tmp_path, model=lambda: nn.Linear(4, 1)).resume()
    assert is_closed()
    with pytest.raises(DataMismatch):
        Loop(tmp_path, gate=lambda: None).resume()
    assert is_closed()


def test_what_is_completed_opens_nothing_when_it_is_resumed(tmp_path: Path, is_closed: Closed) -> None:
    loop = Loop(tmp_path, epochs=1)
    with loop.begin():
        loop.go()
    with loop.resume() as run:
        assert is_closed()
        assert list(run.epochs(1)) == []


def test_a_paused_run_is_closed(tmp_path: Path, is_closed: Closed) -> None:
    loop = Loop(tmp_path, epochs=1)
    run = loop.begin()
    run._interrupted.set()  # as Ctrl-C does
    with pytest.raises(esper.RunEnded):
        loop.go()
    assert is_closed()
    assert run.status == "paused"
