"""Programs that would train something else than they seem to: each is told so, at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

import esper
from esper.errors import UsageError
from esper.events.runs import BoundaryReached, SeedTransitioned
from tests.support.runs.training import SETTINGS, Loop, adam, contents, examples, host, loss, settings

pytestmark = pytest.mark.usefixtures("one_thread")
OUTSIDE = "run.step was called outside of the loop"


def test_a_generator_that_an_epoch_has_used_up_is_named_in_the_next(tmp_path: Path) -> None:
    loop = Loop(tmp_path, loader=lambda: iter(list(DataLoader(examples(64), batch_size=8))), gate=lambda: None)
    run = loop.begin()
    with pytest.raises(UsageError, match=r"epoch 1 has no batches: .* an iterator that an epoch before has used up"):
        loop.go()
    assert run.status == "running"
    assert run.step_number == 8


def test_an_empty_loader_is_named(tmp_path: Path) -> None:
    loop = Loop(tmp_path, loader=list, gate=lambda: None)
    loop.begin()
    with pytest.raises(UsageError, match="epoch 0 has no batches: the loader is empty"):
        loop.go()


def test_a_step_outside_of_the_loop_is_refused(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=1)
    run = loop.begin()
    with pytest.raises(UsageError, match=OUTSIDE):
        run.step(next(iter(loop.batches)))
    run = loop.resume()
    for _ in run.epochs(1):
        for batch in run.batches(loop.batches):
            run.step(batch)
    with pytest.raises(UsageError, match=OUTSIDE):
        run.step(batch)


class Inside(Trainer):
    """A trainer of transformers whose steps are Esper's."""

    run: esper.Run

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        return torch.tensor(self.run.step((inputs["x"], inputs["labels"])))


def test_a_step_inside_another_trainers_loop_is_refused(tmp_path: Path) -> None:
    model = host()
    run = esper.start(model, adam(model), loss, home=tmp_path, run_id="run", settings=SETTINGS)
    data = [{"x": x, "labels": y} for x, y in examples(32)]
    more: dict[str, Any] = {"use_cpu": True, "report_to": [], "remove_unused_columns": False}
    arguments = TrainingArguments(str(tmp_path / "out"), num_train_epochs=1, **more)
    trainer = Inside(model=model, args=arguments, train_dataset=data)  # type: ignore[arg-type]
    trainer.run = run
    with pytest.raises(UsageError, match=OUTSIDE):
        trainer.train()


def stepping(loop: Loop, before: Any = None, after: Any = None) -> None:
    run = loop.run
    assert run._trainer is not None
    subject = run._trainer.subject
    for _ in run.epochs(2):
        for batch in run.batches(loop.batches):
            if before is not None:
                before(subject, batch)
            run.step(batch)
            if after is not None:
                after(subject, batch)


def test_an_optimiser_that_is_stepped_once_more_is_noticed(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    run = loop.begin()
    with pytest.raises(UsageError, match=r"the optimiser was stepped outside of run.step.*leave optimizer.step"):
        stepping(loop, after=lambda subject, _: subject.optimizer.step())
    assert run.step_number == 1


@pytest.mark.parametrize("cleared", [False, True])
def test_a_backward_of_the_programs_own_is_noticed(tmp_path: Path, cleared: bool) -> None:
    def backward(subject: Any, batch: Any) -> None:
        if cleared:
            subject.optimizer.zero_grad()
        loss(subject.model, batch).mean().backward()

    loop = Loop(tmp_path)
    run = loop.begin()
    with pytest.raises(UsageError, match=r"there are gradients that run.step did not compute: leave loss.backward"):
        stepping(loop, before=backward)
    assert run.step_number == 1


def test_looking_at_gradients_and_clearing_them_is_no_misuse(tmp_path: Path) -> None:
    def look(subject: Any, batch: Any) -> None:
        torch.nn.utils.get_total_norm([each.grad for each in subject.model.parameters() if each.grad is not None])
        with torch.no_grad():
            loss(subject.model, batch)

    def clear(subject: Any, batch: Any) -> None:
        subject.optimizer.zero_grad(set_to_none=False)
        subject.optimizer.zero_grad()

    for run_id, act in (("looks", look), ("clears", clear)):
        loop = Loop(tmp_path)
        loop.begin(run_id)
        stepping(loop, after=act)
        assert loop.run.step_number == 16


class Constant(nn.Module):
    """A model whose loss does not depend on one of its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.lost = nn.Linear(4, 1), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.used(x) + 0 * self.lost(x).detach().sum()
        return result


def test_a_seed_that_no_gradient_reaches_is_culled_and_the_cause_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loop = Loop(tmp_path, model=Constant, epochs=4, more={"sites": ["lost"]}, settings=settings())
    loop.begin()
    loop.go()
    assert {each.to_stage for each in contents(tmp_path, SeedTransitioned)} == {"GERMINATED", "CULLED"}
    assert "lost#1 gets a gradient that is exactly zero" in caplog.text
    assert "compiled or detached" in caplog.text


def test_a_model_where_no_seed_can_grow_trains_on_and_that_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loop = Loop(tmp_path, model=lambda: nn.Sequential(nn.Bilinear(2, 2, 1)), epochs=2, loss=bilinear)
    loop.begin()
    loop.go()
    said = [each.message for each in caplog.records if "no seed can grow" in each.message]
    assert said == ["run run: no seed can grow in this model (Bilinear is no kind of site); it trains on without"]
    assert len(contents(tmp_path, BoundaryReached)) == 4


def bilinear(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    result: Tensor = (model[0](x[:, :2], x[:, 2:]) - y).square()
    return result
