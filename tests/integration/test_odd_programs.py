"""Models and loops that are not as one would write them: each is trained, torn and resumed to the same history."""

from __future__ import annotations

import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from esper.errors import ModelMismatch, RunEnded, Unsupported, UsageError
from esper.events.runs import BoundaryReached, CheckpointCommitted, RolledBack
from esper.tamiyo.proof.verify import verify
from tests.support.logs.runlog import events
from tests.support.runs.training import Loop, contents, examples, history, host, settings, stages

pytestmark = pytest.mark.usefixtures("one_thread")


class Mask(nn.Module):
    """Adds a mask that forward makes, keeps and resizes; and a stride-0 buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(1).expand(4))

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "mask") or len(self.mask) < len(x):
            self.register_buffer("mask", torch.zeros(len(x), 1), persistent=False)
        return x * self.scale + self.mask[: len(x)]


class Sometimes(nn.Module):
    """A layer that is skipped in half of the passes (stochastic depth)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(x) if torch.rand(()) < 0.5 else x


def with_mask() -> nn.Module:
    return nn.Sequential(Mask(), *host())


def with_chance() -> nn.Module:
    return nn.Sequential(Sometimes(), *host())


def with_frozen_infinity() -> nn.Module:
    model = host()
    model.register_parameter("minus_infinity", nn.Parameter(torch.full((2,), -math.inf), requires_grad=False))
    return model


def trained_only(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam([each for each in model.parameters() if each.requires_grad], lr=1e-2)


@pytest.mark.parametrize("until", [3, 13, 29])
@pytest.mark.parametrize("model", [with_mask, with_chance, with_frozen_infinity])
def test_an_unusual_model_is_resumed_to_the_same_history(tmp_path: Path, model: Any, until: int) -> None:
    loop = Loop(tmp_path, model=model, optimizer=trained_only, epochs=5)
    whole = loop.whole()
    loop.begin("torn")
    loop.go(until=until)
    loop.resume("torn")
    loop.go()
    assert history(tmp_path, "torn") == whole
    assert max(each.step for each in contents(tmp_path, CheckpointCommitted, "torn")) > 0


def test_a_rollback_takes_back_a_buffer_that_a_pass_has_made(tmp_path: Path) -> None:
    loop = Loop(tmp_path, model=with_mask, epochs=3)
    loop.begin()
    loop.go(on_batch=lambda step, batch: [batch[0] * math.nan, batch[1]] if step == 5 else batch)
    assert [each.to_step for each in contents(tmp_path, RolledBack)] == [0]


def test_the_model_of_a_torn_run_may_be_used_to_resume_it(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=6)
    whole = loop.whole()
    step = next(step for step, _, stage in stages(tmp_path, "whole") if stage == "BLENDING") + 3
    loop.begin("torn")
    assert loop.run._trainer is not None
    model = loop.run._trainer.subject.model
    loop.go(until=step)
    again = Loop(tmp_path, model=lambda: model, epochs=6)
    again.resume("torn")
    again.go()
    assert history(tmp_path, "torn") == whole


def test_another_run_does_not_begin_on_a_model_that_holds_seeds(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=6)
    loop.begin()
    assert loop.run._trainer is not None
    model = loop.run._trainer.subject.model
    loop.go()
    with pytest.raises(Unsupported, match=r"seeds of another run.*build it anew"):
        Loop(tmp_path, model=lambda: model).begin("another")


@pytest.mark.parametrize("until", [2, 5, 12])
def test_an_epoch_that_was_left_early_is_begun_anew_and_resumed_there(tmp_path: Path, until: int) -> None:
    loop = Loop(tmp_path, epochs=3)
    run = loop.begin()
    for _ in run.epochs(3):
        for batch in run.batches(loop.batches):
            run.step(batch)
            break
        break
    loop.go(until=until)
    loop.resume()
    loop.go()
    assert loop.run.status == "completed"
    assert verify("run", events(tmp_path)).ok


def test_gate_batches_of_one_example_do_for_batch_norm(tmp_path: Path) -> None:
    loop = Loop(tmp_path, gate=lambda: DataLoader(examples(40, seed=2), batch_size=1), epochs=3)
    loop.begin()
    loop.go()
    assert stages(tmp_path)


def test_a_wrong_resume_leaves_the_trainer_that_is_right_alone(tmp_path: Path) -> None:
    loop, wrong = Loop(tmp_path, epochs=2), Loop(tmp_path, epochs=2, state=lambda optimizer: {})
    loop.begin()
    with pytest.raises(ModelMismatch, match="state= names"):
        wrong.resume()
    loop.go()
    assert loop.run.status == "completed"


def test_modes_and_frozen_parameters_are_taken_up_as_they_were(tmp_path: Path) -> None:
    def program(loop: Loop, until: int | None) -> None:
        run = loop.run
        assert run._trainer is not None
        model = run._trainer.subject.model
        for epoch in run.epochs(4):
            if epoch == 1 and run.step_number == 8:
                model[1].eval()
                model[0].bias.requires_grad_(False)
            for batch in run.batches(loop.batches):
                run.step(batch)
                loop.stateful["scheduler"].step()
                if run.step_number == until:
                    loop.crash()
                    return
        run.finish()

    loop = Loop(tmp_path, epochs=4)
    loop.begin("whole")
    program(loop, None)
    loop.begin("torn")
    program(loop, 21)
    loop.resume("torn")
    program(loop, None)
    assert history(tmp_path, "torn") == history(tmp_path, "whole")


@pytest.mark.parametrize("steps", [2, 7])
def test_a_loop_may_take_several_steps_with_a_batch(tmp_path: Path, steps: int) -> None:
    loop = Loop(tmp_path, epochs=6)
    run = loop.begin()
    every = run._trainer.settings.boundary.steps if run._trainer else 0
    for _ in run.epochs(6):
        for batch in run.batches(loop.batches):
            for _ in range(steps):
                run.step(batch)
    run.finish()
    assert len(contents(tmp_path, BoundaryReached)) == 6 * 8 * steps // every if steps < every else 6 * 8


def test_a_run_that_ended_with_an_error_says_so_to_its_loop(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=2)
    run = loop.begin()
    batches = run.batches(loop.batches)
    batch = next(batches)
    with pytest.raises(ValueError, match="unpack"):
        run.step(batch[0])
    with pytest.raises(UsageError, match=r"ended with an error; go on with esper.resume"):
        next(batches)


def test_an_average_that_pairs_parameters_by_order_is_refused(tmp_path: Path) -> None:
    average = torch.optim.swa_utils.AveragedModel(host())
    with pytest.raises(Unsupported, match="AveragedModel"):
        Loop(tmp_path, state=lambda optimizer: {"average": average}).begin()


class Mixed(nn.Module):
    """A norm without parameters that is given another type of numbers than those before it train."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n = nn.Linear(4, 4).double(), nn.LayerNorm(4, elementwise_affine=False)
        self.g = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.g(self.n(self.a(x.double()).float()))
        return y


def test_a_seed_that_does_not_work_on_what_its_site_is_given_is_culled_at_birth(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loop = Loop(tmp_path, model=Mixed, epochs=3, settings=settings(policy={"budget": 500.0}))
    loop.begin(sites=["n"])
    loop.go()
    assert {stage for _, _, stage in stages(tmp_path)} == {"GERMINATED", "CULLED"}
    assert "seed n#1 cannot live at its site, so it is culled: mat1 and mat2 must have the same dtype" in caplog.text
    assert verify("run", events(tmp_path)).ok


def test_a_pause_at_a_step_whose_checkpoint_is_due_leaves_a_log_that_verifies(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=3, settings=settings(checkpoint={"steps": 6, "keep": 1}))
    loop.begin()

    def interrupt(step: int, batch: Any) -> Any:
        if step == 14:
            signal.raise_signal(signal.SIGINT)
        return batch

    with pytest.raises(RunEnded):
        loop.go(on_batch=interrupt)
    loop.resume()
    loop.go()
    taken = [(each.step, each.manifest) for each in contents(tmp_path, CheckpointCommitted)]
    assert taken.count(next(each for each in taken if each[0] == 14)) == 2
    assert verify("run", events(tmp_path)).findings == ()


@pytest.mark.parametrize("measured", [{"accuracy": None}, {7: 0.5}, {"accuracy": 10**400}, {"\ud800": 1.0}])
def test_a_test_that_gives_no_numbers_by_name_is_told_so(tmp_path: Path, measured: Any) -> None:
    loop = Loop(tmp_path, epochs=1)
    run = loop.begin()
    for _ in run.epochs(1):
        for batch in run.batches(loop.batches):
            run.step(batch)
    with pytest.raises(UsageError, match=r"^finish\(test=...\) gave .*; return numbers by name"):
        run.finish(test=lambda model: measured)
    loop.resume()
    assert loop.go()["status"] == "completed"


def test_a_seed_of_the_runs_choices_has_64_bits(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not fit into 64 bits"):
        Loop(tmp_path).begin(seed=2**63)


def test_a_closed_run_knows_how_many_steps_it_did(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    loop.begin()
    loop.go(until=5)
    assert loop.run.step_number == 5
