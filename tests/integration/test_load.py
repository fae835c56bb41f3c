"""What a run has learnt and grown, taken from its checkpoints into a host that was built anew."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import esper
from esper.cli.main import main as esper_command
from esper.errors import CorruptArtifact, ModelMismatch, RunNotFound, UsageError
from esper.events.runs import CheckpointCommitted
from esper.tamiyo.proof.verify import verify
from esper.tamiyo.run.fold import fold
from esper.tamiyo.run.state import RunState
from esper.tolaria.checkpoint import weights
from tests.support.logs.runlog import events
from tests.support.runs.training import Loop, adam, contents, host, loss, settings, stages

pytestmark = pytest.mark.usefixtures("one_thread")
X = torch.randn(16, 4, generator=torch.Generator().manual_seed(7))


def outputs(model: nn.Module) -> Tensor:
    model.eval()
    with torch.no_grad():
        result: Tensor = model(X)
    return result


def trained(home: Path, **more: Any) -> nn.Module:
    """The model of a completed run in which a seed was kept."""
    loop = Loop(home, **more)
    run = loop.begin()
    assert run._trainer is not None
    model = run._trainer.subject.model
    loop.go()
    return model


def fresh() -> nn.Module:
    torch.manual_seed(5)
    return host()


def test_a_completed_run_is_loaded_as_it_ended(tmp_path: Path) -> None:
    model = trained(tmp_path, epochs=8)
    assert "FOSSILISED" in {stage for _, _, stage in stages(tmp_path)}
    other = esper.load("run", fresh(), home=tmp_path)
    assert torch.equal(outputs(other), outputs(model))
    assert list(other.state_dict()) == list(model.state_dict())


def test_a_run_that_ends_between_two_checkpoints_has_one_of_its_end(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    run = loop.begin()
    assert run._trainer is not None
    model = run._trainer.subject.model
    for _ in run.epochs(1):
        for batch in run.batches(loop.batches):
            run.step(batch)
            if run.step_number == 5:
                break
        break
    run.finish()
    assert contents(tmp_path, CheckpointCommitted)[-1].reason == "end"
    assert torch.equal(outputs(esper.load("run", fresh(), home=tmp_path)), outputs(model))
    assert verify("run", events(tmp_path)).ok


def test_a_completed_run_that_is_resumed_has_its_last_weights_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = trained(tmp_path, epochs=8)
    other = fresh()
    run = esper.resume("run", other, adam(other), loss, home=tmp_path)
    assert torch.equal(outputs(other), outputs(model))
    assert "has its weights of step 64" in caplog.text
    assert list(run.epochs(8)) == []


@pytest.mark.parametrize("live", [True, False])
def test_a_seed_that_blends_comes_with_its_share_of_that_step_or_not_at_all(tmp_path: Path, live: bool) -> None:
    loop = Loop(tmp_path, settings=settings(checkpoint={"steps": 1, "keep": 1000}))
    run = loop.begin()
    assert run._trainer is not None
    trainer = run._trainer
    seen: dict[int, tuple[Tensor, Tensor]] = {}

    def look(step: int, batch: Any) -> Any:
        """Before step ``step``: what the model gives with and without its living seed."""
        placed = trainer.seeds.in_the_host()
        if placed:
            trainer.subject.model.eval()
            with torch.no_grad():
                whole = trainer.subject.model(X)
                with placed[0].seed.off():
                    seen[step - 1] = whole, trainer.subject.model(X)
            trainer.subject.model.train()
        return batch

    loop.go(until=39, on_batch=look)
    there = {each.step for each in contents(tmp_path, CheckpointCommitted)} & set(seen)
    for step in there:
        other = esper.load("run", fresh(), at=step, live=live, home=tmp_path)
        assert torch.equal(outputs(other), seen[step][not live])
    assert sum(not torch.equal(*seen[step]) for step in there) >= 4


def test_any_checkpoint_that_is_there_can_be_named_by_its_step_or_an_event(tmp_path: Path) -> None:
    trained(tmp_path)
    there = sorted(each.step for each in fold(RunState("run"), events(tmp_path)).checkpoints)
    first = esper.load("run", fresh(), at=0, home=tmp_path)
    torch.manual_seed(0)
    assert torch.equal(outputs(first), outputs(host()))
    last = esper.load("run", fresh(), at=there[-1], home=tmp_path)
    assert torch.equal(
        outputs(last), outputs(esper.load("run", fresh(), at=f"#{len(events(tmp_path))}", home=tmp_path))
    )
    assert torch.equal(outputs(first), outputs(esper.load("run", fresh(), at="#2", home=tmp_path)))


@pytest.mark.parametrize(
    ("at", "words"),
    [
        (6, "the checkpoint of step 6 was retired; there are those of steps 0, "),
        (5, "the checkpoint of step 5 was never taken; there are those of steps 0, "),
        ("newest", 'at=\'newest\' is no checkpoint; give "last", "best", the step of one'),
        (True, "at=True is no checkpoint"),
        (-1, "at=-1 is no checkpoint"),
        ("#0", "at='#0' names no event of run run; it has #1 to #"),
        ("#1", "had no checkpoint yet at event #1"),
        ("best", "was begun without best="),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(tmp_path: Path, at: Any, words: str) -> None:
    trained(tmp_path)
    model = fresh()
    before = outputs(model)
    with pytest.raises(UsageError, match=re.escape(words)) as caught:
        esper.load("run", model, at=at, home=tmp_path)
    assert "\n" not in str(caught.value)
    assert torch.equal(outputs(model), before)


def test_a_run_that_is_not_there_makes_no_files(tmp_path: Path) -> None:
    with pytest.raises(RunNotFound, match="there is no run run"):
        esper.load("run", fresh(), home=tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_checkpoint_that_is_retired_while_it_is_read_gives_way_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained(tmp_path)
    read, newest = weights.run_events, events(tmp_path)
    cut = next(place for place, each in enumerate(newest) if getattr(each.content, "step", 0) > 12)
    looks = iter([cut, None])
    monkeypatch.setattr(weights, "run_events", lambda *run: islice(read(*run), next(looks)))
    assert torch.equal(outputs(esper.load("run", fresh(), home=tmp_path)), outputs(model))


def test_another_model_and_damaged_files_are_refused(tmp_path: Path) -> None:
    trained(tmp_path)
    with pytest.raises(ModelMismatch, match="build the same model"):
        esper.load("run", nn.Sequential(nn.Linear(4, 5)), home=tmp_path)
    for chunk in (tmp_path / "artifacts" / "runs" / "run" / "chunks").iterdir():
        chunk.write_bytes(b"damaged")
    with pytest.raises(CorruptArtifact):
        esper.load("run", fresh(), home=tmp_path)


def test_the_weights_of_a_run_are_written_as_its_state_dict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = trained(tmp_path, epochs=8)
    out = tmp_path / "grown.safetensors"
    assert esper_command(["weights", "run", "--out", str(out), "--home", str(tmp_path)]) == 0
    assert "run run after step 64" in capsys.readouterr().out
    found, wanted = safetensors.torch.load_file(out), model.state_dict()
    assert set(found) == set(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


class Tied(nn.Module):
    """Two layers that share a weight, and a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)
        self.second.weight = self.first.weight
        self.register_buffer("mask", torch.ones(4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.second(self.first(x * self.mask)))
        return result


def test_shared_weights_and_buffers_that_are_not_saved_are_written_as_state_dict_has_them(tmp_path: Path) -> None:
    model = trained(tmp_path, model=Tied, epochs=2)
    out = tmp_path / "tied.safetensors"
    assert esper_command(["weights", "run", "--at", "last", "--out", str(out), "--home", str(tmp_path)]) == 0
    Tied().load_state_dict(safetensors.torch.load_file(out), strict=True)
    assert set(safetensors.torch.load_file(out)) == set(model.state_dict())


def test_a_file_of_another_kind_is_refused_and_one_that_was_there_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(tmp_path, epochs=1)
    out = tmp_path / "old.safetensors"
    out.write_bytes(b"old")
    assert esper_command(["weights", "run", "--at", "3", "--out", str(out), "--home", str(tmp_path)]) == 2
    assert "the checkpoint of step 3 was never taken" in capsys.readouterr().err
    assert out.read_bytes() == b"old"
    assert esper_command(["weights", "run", "--out", str(tmp_path / "run.pt"), "--home", str(tmp_path)]) == 2
