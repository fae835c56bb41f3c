"""What is trained: refused where it cannot be recovered, restored bit for bit where it can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler as schedulers

from esper.errors import ModelMismatch, Unsupported
from esper.tolaria.model.digest import digest_tree
from esper.tolaria.model.host import check_like, describe, load_tensors
from esper.tolaria.model.subject import Pulse, Subject
from esper.tolaria.model.tree import flatten, unflatten
from tests.support.runs.training import loss

Build = Callable[[list[nn.Parameter]], torch.optim.Optimizer]

OPTIMISERS: dict[str, Build] = {
    "ASGD": lambda p: torch.optim.ASGD(p, lr=0.01),
    "Adadelta": lambda p: torch.optim.Adadelta(p),
    "Adafactor": lambda p: torch.optim.Adafactor(p),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "Adam, amsgrad, tensor rate": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01), amsgrad=True),
    "Adam, fused": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "AdamW, two groups": lambda p: torch.optim.AdamW([{"params": p[:1], "lr": 0.1}, {"params": p[1:]}]),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.01),
    "SGD, momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
}

SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "ChainedScheduler": lambda o: schedulers.ChainedScheduler(
        [schedulers.ConstantLR(o, 0.5, 2), schedulers.ExponentialLR(o, 0.9)]
    ),
    "ConstantLR": lambda o: schedulers.ConstantLR(o, 0.5, 4),
    "CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, 7),
    "CosineAnnealingWarmRestarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 3, 2),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, 1e-3, 1e-1, 3, cycle_momentum=False),
    "CyclicLR, its own scale": lambda o: schedulers.CyclicLR(
        o, 1e-3, 1e-1, 3, scale_fn=lambda x: 0.5, cycle_momentum=False
    ),
    "ExponentialLR": lambda o: schedulers.ExponentialLR(o, 0.9),
    "LambdaLR": lambda o: schedulers.LambdaLR(o, lambda step: 0.9**step),
    "LinearLR": lambda o: schedulers.LinearLR(o, 0.3, 1, 5),
    "MultiStepLR": lambda o: schedulers.MultiStepLR(o, [2, 5, 5]),
    "MultiplicativeLR": lambda o: schedulers.MultiplicativeLR(o, lambda step: 0.9),
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=20),
    "PolynomialLR": lambda o: schedulers.PolynomialLR(o, 8),
    "ReduceLROnPlateau": lambda o: schedulers.ReduceLROnPlateau(o, patience=1),
    "SequentialLR": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, 0.1, 1, 3), schedulers.CosineAnnealingLR(o, 9)], [3]
    ),
    "StepLR": lambda o: schedulers.StepLR(o, 2),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 0.05, anneal_epochs=5),
}


def test_every_scheduler_of_torch_is_tried() -> None:
    every = {
        name for name, each in vars(schedulers).items() if isinstance(each, type) and hasattr(each, "load_state_dict")
    }
    tried = {name.partition(",")[0] for name in SCHEDULERS} | {"LRScheduler", "_LRScheduler", "Optimizer"}
    assert every <= tried


class Training:
    """A tiny training: parameters, optimiser and scheduler, their rates and weights as they went."""

    def __init__(self, build: Build, schedule: Callable[[torch.optim.Optimizer], Any], dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).to(dtype)
        self.optimizer = build(list(self.model.parameters()))
        self.scheduler = schedule(self.optimizer)
        self.subject = Subject(self.model, self.optimizer, loss, {"scheduler": self.scheduler}, None)
        self.subject.check()

    def run(self, first: int, last: int) -> list[str]:
        digests = []
        for step in range(first, last):
            torch.manual_seed(step)
            self.optimizer.zero_grad()
            x = torch.randn(5, 4).to(next(self.model.parameters()).dtype)
            value = self.model(x).square().mean()
            value.backward()
            self.optimizer.step()
            plateau = isinstance(self.scheduler, schedulers.ReduceLROnPlateau)
            self.scheduler.step(1.0) if plateau else self.scheduler.step()
            digests.append(digest_tree(self.tree()).digest)
        return digests

    def tree(self) -> dict[str, Any]:
        model, optimizer = self.subject.tensors(), self.optimizer.state_dict()
        return {"model": model, "optimizer": optimizer, "state": self.subject.user_state()}

    def load(self, tree: dict[str, Any]) -> None:
        load_tensors(self.subject.model, tree["model"])
        self.subject.load_optimizer(tree["optimizer"], rates=True)
        self.subject.load_user_state(tree["state"])


def copied(tree: Any) -> Any:
    """As it comes out of a file: contiguous."""
    skeleton, tensors = flatten(tree)
    return unflatten(
        skeleton, {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    )


def constant(optimizer: torch.optim.Optimizer) -> Any:
    return schedulers.ConstantLR(optimizer, 1.0, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", OPTIMISERS)
def test_an_optimiser_goes_on_exactly_where_it_was(name: str, dtype: torch.dtype) -> None:
    _check(OPTIMISERS[name], constant, dtype)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_goes_on_exactly_where_it_was(name: str) -> None:
    _check(OPTIMISERS["SGD, momentum"], SCHEDULERS[name], torch.float32)
    _check(OPTIMISERS["AdamW, two groups"], SCHEDULERS[name], torch.float32)


def _check(build: Build, schedule: Callable[[torch.optim.Optimizer], Any], dtype: torch.dtype) -> None:
    whole = Training(build, schedule, dtype).run(0, 8)
    torn = Training(build, schedule, dtype)
    digests = torn.run(0, 4)
    saved = copied(torn.tree())
    torn.run(4, 6)
    for target in (torn, Training(build, schedule, dtype)):  # a rollback, and another process
        target.load(copied(saved))
        assert digest_tree(target.tree()).digest == digests[-1]
        assert digests + target.run(4, 8) == whole


def test_memory_formats_survive_so_that_bits_do() -> None:
    def training() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        return model, torch.optim.Adam(model.parameters())

    model, optimizer = training()
    subject = Subject(model, optimizer, loss, {}, None)
    model(torch.randn(2, 3, 5, 5)).sum().backward()
    optimizer.step()
    saved = copied({"model": subject.tensors(), "optimizer": optimizer.state_dict()})
    model, optimizer = training()
    subject = Subject(model, optimizer, loss, {}, None)
    load_tensors(subject.model, saved["model"])
    subject.load_optimizer(saved["optimizer"], rates=True)
    assert model.weight.is_contiguous(memory_format=torch.channels_last)
    assert optimizer.state[model.weight]["exp_avg"].stride() == model.weight.stride()


def test_learning_rates_stay_where_a_rollback_leaves_them() -> None:
    training = Training(OPTIMISERS["Adam"], SCHEDULERS["ExponentialLR"], torch.float32)
    training.run(0, 3)
    saved = copied(training.tree())
    training.run(3, 6)
    rate = training.optimizer.param_groups[0]["lr"]
    training.subject.load_optimizer(saved["optimizer"], rates=False)
    assert training.optimizer.param_groups[0]["lr"] == rate
    assert (
        digest_tree(training.optimizer.state_dict()["state"]).digest == digest_tree(saved["optimizer"]["state"]).digest
    )


def subject(model: nn.Module | None = None, **more: Any) -> Subject:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) if model is None else model
    given = {"optimizer": torch.optim.SGD(model.parameters()), "loss": loss, "state": {}, "clip_norm": None}
    return Subject(model, **(given | more))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda: nn.Sequential(nn.Linear(2, 2)), r"1\.weight: the run has it, the model does not"),
        (
            lambda: nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.PReLU()),
            r"2\.weight: the model has it, the run does not",
        ),
        (lambda: nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), r"0\.weight is \[2, 3\] .*\[2, 2\]"),
        (lambda: nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).double(), r"0\.weight is .*float64, .*float32"),
        (lambda: nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2)), r"0\.bias: the run has it"),
    ],
)
def test_another_model_is_refused_by_its_first_difference(other: Callable[[], nn.Module], words: str) -> None:
    with pytest.raises(ModelMismatch, match=words) as caught:
        check_like(other(), describe(subject().model))
    assert "\n" not in str(caught.value)
    assert "same model" in str(caught.value)


def test_buffers_count_whether_they_are_persistent_or_not() -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("mask", torch.ones(2), persistent=False)
    assert set(subject(model).tensors()) == {"weight", "bias", "mask"}


def test_another_name_in_state_is_refused() -> None:
    with pytest.raises(ModelMismatch, match=r"\['a'\].*\['b'\]"):
        subject(state={"a": nn.Linear(1, 1)}).check_fits({"state": {"b": {}}})


def _compiled_inside() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].compile()
    return model


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: subject(torch.compile(nn.Linear(2, 2))), "compiled"),  # type: ignore[arg-type]
        (lambda: subject(nn.Sequential(torch.compile(nn.Linear(2, 2)))), "compiled"),  # type: ignore[arg-type]
        (lambda: subject(_compiled_inside()), "compiled"),
        (lambda: subject(state={"scaler": torch.amp.GradScaler("cpu", enabled=False)}), r"state\['scaler'\].*bfloat16"),
        (lambda: subject(state={"step": 3}), r"state\['step'\] has no state_dict"),
        (lambda: subject(loss=lambda model: model), r"loss\(model, batch\)"),
        (lambda: subject(loss=lambda model, x, y: model), r"loss\(model, batch\)"),
    ],
)
def test_what_cannot_be_recovered_is_refused_with_the_remedy(make: Callable[[], Subject], words: str) -> None:
    with pytest.raises(Unsupported, match=words):
        make().check()


def test_lbfgs_is_refused() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(Unsupported, match=r"LBFGS needs a closure.*AdamW"):
        subject(model, optimizer=torch.optim.LBFGS(model.parameters())).check()


def test_a_loss_may_have_more_arguments_with_defaults() -> None:
    def weighted(model: nn.Module, batch: Any, weight: float = 2.0) -> Tensor:
        return weight * loss(model, batch)

    subject(loss=weighted).check()
    subject(loss=lambda *args: loss(*args)).check()


def test_a_replaced_parameter_is_noticed_and_one_changed_in_place_is_not() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    pulse = Pulse(model)
    with torch.no_grad():
        model[0].weight.add_(1)
    model[0].add_module("esper_seed_1", nn.Linear(2, 2))
    pulse.check()
    model[1].weight = nn.Parameter(torch.zeros(2, 2))
    with pytest.raises(ModelMismatch, match=r"parameter 1\.weight was replaced.*copy_"):
        pulse.check()
    model[1] = nn.Identity()  # type: ignore[assignment]
    with pytest.raises(ModelMismatch, match=r"1\.weight was replaced or removed"):
        pulse.check()
