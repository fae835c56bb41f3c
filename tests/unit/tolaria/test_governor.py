"""The governor: what happens when a loss is not finite, or far above the recent ones."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from esper.errors import TrainingFailed
from esper.events.runs import AlertRaised, BoundaryReached, RolledBack, RunFailed, SeedTransitioned
from esper.tolaria.model.digest import digest_tree
from tests.support.runs.training import Loop, contents, history, settings, shuffled, stages

pytestmark = pytest.mark.usefixtures("one_thread")


NO_SEEDS = settings(policy={"seeds": 0})


def spoiled(*steps: int, value: float = math.nan) -> Any:
    """Batches whose inputs are not finite at some steps."""

    def spoil(step: int, batch: Any) -> Any:
        return [torch.full_like(batch[0], value), batch[1]] if step in steps else batch

    return spoil


def test_a_loss_that_is_not_finite_takes_the_run_back_and_time_goes_on(tmp_path: Path) -> None:
    loop = Loop(tmp_path, settings=NO_SEEDS, epochs=3)
    loop.begin()
    trainer = loop.run._trainer
    assert trainer is not None
    seen: dict[int, Any] = {}

    def spoil(step: int, batch: Any) -> Any:
        seen[step] = [tensor.clone() for tensor in trainer.subject.tensors().values()]
        return spoiled(15)(step, batch)

    loop.go(on_batch=spoil)
    (back,) = contents(tmp_path, RolledBack)
    assert (back.step, back.to_step) == (15, 14)
    assert digest_tree(seen[16]).digest == digest_tree(seen[15]).digest
    assert [each.step for each in contents(tmp_path, BoundaryReached)] == [4, 8, 12, 16, 20, 24]
    assert loop.run.summary()["steps"] == 24


def test_weights_and_optimiser_go_back_to_the_checkpoint_and_rates_and_state_go_on(tmp_path: Path) -> None:
    loop = Loop(tmp_path, settings=NO_SEEDS, epochs=4)
    loop.begin()
    trainer = loop.run._trainer
    assert trainer is not None
    before: dict[int, Any] = {}

    def spoil(step: int, batch: Any) -> Any:
        optimizer = trainer.subject.optimizer
        before[step] = {
            "weights": digest_tree(trainer.subject.tensors()).digest,
            "moments": digest_tree(optimizer.state_dict()["state"]).digest,
            "rate": optimizer.param_groups[0]["lr"],
            "last_epoch": loop.stateful["scheduler"].last_epoch,
        }
        return spoiled(23)(step, batch)

    loop.go(on_batch=spoil)
    (back,) = contents(tmp_path, RolledBack)
    assert (back.step, back.to_step) == (23, 22)
    after, then = before[24], before[back.to_step + 1]
    assert (after["weights"], after["moments"]) == (then["weights"], then["moments"])
    assert after["last_epoch"] == 23
    assert after["rate"] == pytest.approx(1e-2 * 0.9**2)


def test_a_step_whose_loss_is_infinite_moves_nothing(tmp_path: Path) -> None:
    loop = Loop(tmp_path, model=lambda: nn.Sequential(nn.Linear(4, 1)), settings=NO_SEEDS, epochs=2)
    run = loop.begin()
    trainer = run._trainer
    assert trainer is not None
    iterator = iter(run.batches(loop.batches))
    run.step(next(iterator))
    digest = digest_tree([trainer.subject.tensors(), trainer.subject.optimizer.state_dict()]).digest
    assert run.step(spoiled(2, value=math.inf)(2, next(iterator))) in (math.inf, pytest.approx(math.nan, nan_ok=True))
    assert digest_tree([trainer.subject.tensors(), trainer.subject.optimizer.state_dict()]).digest == digest
    loop.crash()


def test_a_run_with_rollbacks_resumes_to_the_same_history(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=6)
    spoil = spoiled(15, 31)
    loop.begin("whole")
    loop.go(on_batch=spoil)
    whole = history(tmp_path, "whole")
    assert [content["step"] for name, content in whole if name == "RolledBack"] == [15, 31]
    loop.begin("torn")
    for step in (15, 17, 31, 33):
        loop.go(until=step, on_batch=spoil)
        loop.resume("torn")
    loop.go(on_batch=spoil)
    assert history(tmp_path, "torn") == whole


def test_a_rollback_culls_the_seed_that_blends_and_embargoes_its_site(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=5)
    loop.begin()
    loop.go(on_batch=spoiled(33))
    (back,) = contents(tmp_path, RolledBack)
    assert back.to_step == 32
    culled = [each for each in contents(tmp_path, SeedTransitioned) if each.to_stage == "CULLED"]
    assert [(each.step, each.from_stage, each.cause) for each in culled] == [(33, "BLENDING", "rollback")]


def test_a_rollback_removes_the_seeds_born_since_and_they_do_not_come_back_by_name(tmp_path: Path) -> None:
    loop = Loop(tmp_path, settings=settings(checkpoint={"steps": 100}), epochs=4)
    loop.loader = lambda: shuffled(512)
    loop.epochs = 1
    loop.begin()
    loop.go(until=30, on_batch=spoiled(10))
    (back,) = contents(tmp_path, RolledBack)
    assert (back.to_step, back.removed) == (0, ("3#1",))
    names = [(step, seed) for step, seed, stage in stages(tmp_path) if stage == "GERMINATED"]
    assert names == [(8, "3#1"), (16, "3#2")]
    loop.resume()
    loop.go(on_batch=spoiled(10))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_first_loss_that_is_not_finite_fails_the_run(tmp_path: Path, value: float) -> None:
    loop = Loop(tmp_path, state=lambda optimizer: {}, epochs=1)
    loop.begin()
    with pytest.raises(TrainingFailed, match=r"before the first update.*look at the data"):
        loop.go(on_batch=spoiled(1, value=value))
    (failed,) = contents(tmp_path, RunFailed)
    assert failed.step == 1
    assert loop.run.status == "failed"


def test_the_third_rollback_within_the_window_fails_the_run(tmp_path: Path) -> None:
    loop = Loop(tmp_path, settings=NO_SEEDS, epochs=4)
    loop.begin()
    with pytest.raises(TrainingFailed, match=r"after 2 rollbacks within 200 steps.*learning rate"):
        loop.go(on_batch=spoiled(10, 15, 20))
    assert [each.step for each in contents(tmp_path, RolledBack)] == [10, 15]
    assert [each.step for each in contents(tmp_path, RunFailed)] == [20]


def test_rollbacks_far_apart_are_tolerated(tmp_path: Path) -> None:
    loop = Loop(tmp_path, settings={**NO_SEEDS, "governor": {"window": 10}}, epochs=5)
    loop.begin()
    loop.go(on_batch=spoiled(10, 15, 21, 33))
    assert [each.step for each in contents(tmp_path, RolledBack)] == [10, 15, 21, 33]
    assert loop.run.status == "completed"


@pytest.mark.parametrize(("at", "stage"), [((31, 32), "BLENDING"), ((39, 40), "HOLDING")])
def test_an_alarm_culls_the_seed_that_blends_or_holds(tmp_path: Path, at: tuple[int, int], stage: str) -> None:
    def scaled(step: int, batch: Any) -> Any:
        return [batch[0], batch[1] + 30] if step in at else batch

    loop = Loop(tmp_path, epochs=6)
    loop.begin("whole")
    loop.go(on_batch=scaled)
    (alert,) = contents(tmp_path, AlertRaised, "whole")
    assert alert.step == at[1]
    assert "standard deviations" in alert.detail
    culled = [each for each in contents(tmp_path, SeedTransitioned, "whole") if each.gate == "governor"]
    assert [(each.step, each.from_stage, each.to_stage) for each in culled] == [(at[1], stage, "CULLED")]
    loop.begin("torn")
    loop.go(until=at[1] + 1, on_batch=scaled)
    loop.resume("torn")
    loop.go(on_batch=scaled)
    assert history(tmp_path, "torn") == history(tmp_path, "whole")


def test_a_seed_whose_own_loss_is_not_finite_is_culled_without_a_rollback(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=3)
    loop.begin()
    trainer = loop.run._trainer
    assert trainer is not None

    def poison(step: int, batch: Any) -> Any:
        if step == 14:
            with torch.no_grad():
                next(trainer.seeds.placed["3#1"].seed.kernel.parameters()).fill_(math.nan)
        return batch

    loop.go(on_batch=poison)
    assert contents(tmp_path, RolledBack) == []
    culled = [each for each in contents(tmp_path, SeedTransitioned) if each.to_stage == "CULLED"]
    assert [(each.step, each.gate) for each in culled] == [(16, "finite")]
