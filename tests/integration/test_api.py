"""The Python API as docs/python.md shows it: signatures, the loop, what each call gives."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import esper
from esper.errors import LossShape, RunExists, RunNotFound, RunUnusable, TrainingFailed, UsageError
from esper.events.runs import BoundaryReached, DecisionMade, RunCompleted, RunResumed, RunStarted
from esper.settings import Settings
from tests.support.runs.training import Loop, contents, events, examples, history, loss, stages

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_signatures_are_the_documented_ones() -> None:
    start, resume = inspect.signature(esper.start).parameters, inspect.signature(esper.resume).parameters
    documented = ["gate_data", "state", "clip_norm", "sites", "seed", "home", "log", "run_id"]
    assert list(start)[:3] == ["model", "optimizer", "loss"]
    assert list(start)[3:11] == documented
    assert {name: start[name].default for name in documented} == {
        "gate_data": None,
        "state": None,
        "clip_norm": None,
        "sites": "auto",
        "seed": 0,
        "home": ".esper",
        "log": None,
        "run_id": None,
    }
    assert list(resume)[:4] == ["run_id", "model", "optimizer", "loss"]
    assert set(resume) >= {"gate_data", "state", "clip_norm", "sites", "home", "log"}


def test_the_loop_of_the_page_trains_and_completes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    loader = torch.utils.data.DataLoader(examples(64), batch_size=8, shuffle=True)
    run = esper.start(model, optimizer, loss, home=tmp_path)
    values, epochs = [], []
    for epoch in run.epochs(3):
        epochs.append(epoch)
        for batch in run.batches(loader):
            values.append(run.step(batch))
    summary = run.finish(test=lambda model: {"accuracy": torch.tensor(0.75), "other": 2})  # type: ignore[dict-item]
    assert epochs == [0, 1, 2]
    assert len(values) == 24
    assert all(isinstance(value, float) for value in values)
    assert sum(values[-8:]) < sum(values[:8])
    assert run.run_id in str(list((tmp_path / "artifacts" / "runs").iterdir()))
    assert (
        summary
        == run.summary()
        == {
            "run_id": run.run_id,
            "status": "completed",
            "steps": 24,
            "final_loss": pytest.approx(sum(values) / 24),  # since the last boundary, of which there is none yet
            "test_accuracy": 0.75,
            "parameters_digest": contents(tmp_path, RunCompleted, run.run_id)[0].parameters_digest,
            "events": len(events(tmp_path, run.run_id)),
            "seeds": {},
        }
    )
    assert contents(tmp_path, RunCompleted, run.run_id)[0].test == {"accuracy": 0.75, "other": 2.0}
    assert run.finish() == summary
    with pytest.raises(UsageError, match=r"completed; there is nothing to step"):
        run.step(batch)


def test_the_test_sees_the_grown_model_and_the_summary_counts_its_seeds(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=6)
    run = loop.begin()
    loop.go()
    assert run.summary()["seeds"] == {"FOSSILISED": 1, "TRAINING": 1}
    assert run.summary()["test_accuracy"] is None
    assert run.events_written == run.state.sequence == len(events(tmp_path))
    assert run.step_number == 48


def test_resuming_a_completed_run_does_nothing_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop(tmp_path, epochs=1)
    loop.begin()
    summary = loop.go()
    count = len(events(tmp_path))
    run = loop.resume()
    assert "completed already" in caplog.text
    assert list(run.epochs(10)) == []
    assert list(run.batches(loop.batches)) == []
    asked: list[Any] = []
    assert run.finish(test=lambda model: asked.append(model) or {}) == summary
    assert asked == []
    assert len(events(tmp_path)) == count


def test_a_run_id_that_exists_names_resume(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=1)
    loop.begin("mine")
    loop.crash()
    with pytest.raises(RunExists, match=r"esper\.resume\('mine'"):
        loop.begin("mine")
    loop.resume("mine")
    loop.go()
    with pytest.raises(RunExists, match=r"esper\.resume\('mine'"):
        loop.begin("mine")


def test_an_unknown_run_names_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(RunNotFound, match=r"no run ghost: sqlite:///.*log\.db does not exist"):
        Loop(tmp_path).resume("ghost")
    assert not list(tmp_path.iterdir())  # looking makes no files
    Loop(tmp_path, epochs=1).begin("another").close()
    with pytest.raises(RunNotFound, match=r"no run ghost in sqlite:///.*log\.db; `esper runs`"):
        Loop(tmp_path).resume("ghost")


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "a b", "ü", "x" * 101])
def test_a_run_id_is_a_plain_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"no run id"):
        Loop(tmp_path).resume(name)


def test_a_failed_run_is_not_resumed(tmp_path: Path) -> None:
    loop = Loop(tmp_path, state=lambda optimizer: {}, epochs=1)
    loop.begin()
    with pytest.raises(TrainingFailed):
        loop.go(on_batch=lambda step, batch: [batch[0] * torch.nan, batch[1]])
    with pytest.raises(RunUnusable, match=r"run is failed.*start a new one"):
        loop.resume()


def test_batches_may_be_called_once_in_an_epoch(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=2)
    run = loop.begin()
    for epoch in run.epochs(2):
        for batch in run.batches(loop.batches):
            run.step(batch)
        with pytest.raises(UsageError, match=r"twice in one epoch"):
            run.batches(loop.batches)
        assert epoch in (0, 1)
    run.finish()
    assert run.summary()["steps"] == 16


def test_a_loop_that_breaks_out_of_an_epoch_goes_on_with_the_next(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=3)

    def go(run: esper.Run, until: int | None = None) -> None:
        for _ in run.epochs(3):
            for batch in run.batches(loop.batches):
                run.step(batch)
                if run.step_number == until:
                    loop.crash()
                    return
                if run.step_number % 5 == 0:
                    break
        run.finish()

    go(loop.begin("whole"))
    go(loop.begin("torn"), until=8)
    go(loop.resume("torn"))
    whole, torn = (contents(tmp_path, RunCompleted, name)[0] for name in ("whole", "torn"))
    assert whole.step == torn.step == 15
    assert whole.parameters_digest == torn.parameters_digest


# The loss


def test_a_loss_of_one_number_is_refused_with_the_example(tmp_path: Path) -> None:
    loop = Loop(tmp_path, loss=lambda model, batch: loss(model, batch).mean())
    loop.begin()
    with pytest.raises(LossShape, match=r'a single number.*reduction="none"') as caught:
        loop.go()
    assert "\n" not in str(caught.value)


def test_a_loss_of_more_dimensions_is_averaged_for_each_example(tmp_path: Path) -> None:
    def twice(model: nn.Module, batch: Any) -> Tensor:
        return loss(model, batch).expand(-1, 6).reshape(-1, 2, 3)

    final = []
    for name, given in {"one": loss, "other": twice}.items():
        loop = Loop(tmp_path, epochs=1, loss=given)
        loop.begin(name)
        final.append(loop.go()["final_loss"])
    assert final[0] == pytest.approx(final[1], rel=1e-5)


def test_clip_norm_clips_the_hosts_gradient(tmp_path: Path) -> None:
    norms: dict[float | None, list[float]] = {0.1: [], None: []}
    for clip, seen in norms.items():
        loop = Loop(tmp_path, epochs=1, more={"clip_norm": clip})
        run = loop.begin(f"clip-{clip}")
        trainer = run._trainer
        assert trainer is not None
        for batch in run.batches(loop.batches):
            run.step(batch)
            gradients = [each.grad for each in trainer.subject.model.parameters() if each.grad is not None]
            seen.append(float(torch.nn.utils.get_total_norm(gradients)))
        loop.crash()
    assert max(norms[0.1]) == pytest.approx(0.1, rel=1e-3)
    assert min(norms[None]) > 0.2


# Sites


def tables(home: Path) -> list[Any]:
    started, boundaries = contents(home, RunStarted), contents(home, BoundaryReached)
    return [each.sites for each in (*started, *boundaries)]


class Reused(nn.Module):
    """Calls one layer twice, and another never."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.once, self.never = nn.Linear(4, 4), nn.Linear(4, 1), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.once(self.twice(self.twice(x)))


def test_layers_not_called_once_are_reported_after_the_first_step(tmp_path: Path) -> None:
    loop = Loop(tmp_path, model=Reused, epochs=2)
    loop.begin()
    loop.go()
    started, first, *rest = tables(tmp_path)
    assert started.reasons == (None, None, None)
    reasons = dict(zip(first.names, first.reasons, strict=True))
    assert reasons == {
        "twice": "called 2 times in one forward pass",
        "once": None,
        "never": "never called in a forward pass",
    }
    assert set(rest) == {None}
    assert {seed for _, seed, _ in stages(tmp_path)} == {"once#1"}


def test_seeds_grow_only_at_the_named_sites(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=3, more={"sites": ["0"]})
    loop.begin()
    loop.go(until=13)
    assert tables(tmp_path)[0].names == ("0",)
    assert {seed for _, seed, _ in stages(tmp_path)} == {"0#1"}
    with pytest.raises(UsageError, match=r"sites"):
        loop.resume(sites="auto")
    loop.resume()
    loop.go()
    assert set(tables(tmp_path)[1:]) == {None}


@pytest.mark.parametrize(
    ("sites", "words"),
    [(["7"], "no layer '7'"), (["1"], "'1' cannot hold a seed: BatchNorm1d"), ("0", r"write sites=\['0'\]")],
)
def test_a_site_that_cannot_be_is_refused(tmp_path: Path, sites: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Loop(tmp_path, more={"sites": sites}).begin()


# Gate data


def test_without_gate_data_nothing_germinates_and_the_run_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loop = Loop(tmp_path, gate=lambda: None, epochs=2)
    with caplog.at_level(logging.WARNING):
        loop.begin()
    assert "no gate_data, so no seed will germinate" in caplog.text
    loop.go(until=9)
    loop.resume()
    loop.go()
    assert stages(tmp_path) == []
    assert contents(tmp_path, RunStarted)[0].gate is None
    assert {each.action for each in contents(tmp_path, DecisionMade)} == {"wait"}
    assert all("no gate data" in each.reason for each in contents(tmp_path, DecisionMade))


def test_gate_data_may_be_any_iterable_and_is_read_once(tmp_path: Path) -> None:
    reads: list[int] = []

    def batches() -> Iterator[Any]:
        reads.append(1)
        x, y = examples(200, seed=2).tensors
        yield x[:120], y[:120]
        yield x[120:], y[120:]

    loop = Loop(tmp_path, gate=batches, epochs=3)
    loop.begin()
    loop.go()
    assert reads == [1]
    assert contents(tmp_path, RunStarted)[0].gate.examples == 200


# Settings


def test_settings_may_be_an_object_a_mapping_or_nothing(tmp_path: Path) -> None:
    for name, given in {"object": Settings(), "mapping": {"boundary": {"steps": 9}}, "nothing": None}.items():
        loop = Loop(tmp_path, settings=given, epochs=1)  # type: ignore[arg-type]
        loop.begin(name)
        loop.crash()
    assert [contents(tmp_path, RunStarted, name)[0].settings.count('"steps":9') for name in ("object", "mapping")] == [
        0,
        1,
    ]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"boundry": {"steps": 9}}, "no option 'boundry'"),
        ({"boundary": {"stps": 9}}, "no option 'boundary.stps'; did you mean boundary.steps"),
        ({"boundary": {"steps": 0}}, r"boundary\.steps=0: input should be greater than 0"),
    ],
)
def test_a_wrong_setting_is_a_usage_error_in_one_line(tmp_path: Path, given: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        Loop(tmp_path, settings=given).begin()
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "artifacts").exists()


def test_an_exception_in_the_loop_leaves_a_run_that_can_be_resumed(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=2)
    whole = loop.whole()
    loop.begin("torn")
    with pytest.raises(ZeroDivisionError):
        loop.go(on_batch=lambda step, batch: batch if step < 11 else 1 / 0)
    loop.crash()
    loop.resume("torn")
    loop.go()
    assert history(tmp_path, "torn") == whole
    assert contents(tmp_path, RunResumed, "torn")[0].notes == ()
