"""What is trained: the user's model, optimiser, loss and state, checked once, and read and restored as a tree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from esper.errors import ModelMismatch
from esper.tolaria.model import refusals
from esper.tolaria.model.host import is_seed, tensors_of

Loss = Callable[[nn.Module, Any], Tensor]


class Stateful(Protocol):
    """What ``state=`` holds: schedulers, averages, anything with these two methods."""

    def state_dict(self) -> dict[str, Any]:
        """Its state, made of tensors and plain values."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Take up a state that ``state_dict`` gave."""


@dataclass(slots=True)
class Subject:
    """The user's objects. ``state`` maps names to what else has to survive a crash."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Loss
    state: Mapping[str, Stateful]
    clip_norm: float | None

    def check(self) -> None:
        """Raise Unsupported for what Esper refuses, saying what to do instead."""
        refusals.check(self.model, self.optimizer, self.loss, self.state)

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers (persistent or not) by name, fossilised seeds included."""
        return tensors_of(self.model)

    def finite(self) -> bool:
        """Whether every parameter that is trained is finite; a frozen mask may hold infinities."""
        trained = (each for group in self.optimizer.param_groups for each in group["params"])
        return all(bool(each.isfinite().all()) for each in trained)

    def flags(self) -> dict[str, list[str]]:
        """The modules in evaluation mode and the frozen parameters, by name."""
        return {
            "evaluating": [name for name, module in self.model.named_modules() if not module.training],
            "frozen": [name for name, each in self.model.named_parameters() if not each.requires_grad],
        }

    def load_flags(self, saved: dict[str, list[str]]) -> None:
        """Set modes and frozen parameters as ``flags`` gave them."""
        evaluating, frozen = set(saved["evaluating"]), set(saved["frozen"])
        for name, module in self.model.named_modules():
            module.training = name not in evaluating
        for name, each in self.model.named_parameters():
            each.requires_grad_(name not in frozen)

    def user_state(self) -> dict[str, Any]:
        """The ``state_dict`` of each object in ``state``, by name."""
        return {name: value.state_dict() for name, value in self.state.items()}

    def load_user_state(self, saved: dict[str, Any]) -> None:
        """Load what ``user_state`` gave into the objects of the same names."""
        for name, value in self.state.items():
            value.load_state_dict(saved[name])

    def check_fits(self, saved: dict[str, Any]) -> None:
        """Raise ModelMismatch unless a checkpoint's tree can be loaded into these objects."""
        if set(saved["state"]) != set(self.state):
            raise ModelMismatch(
                f"state= names {sorted(self.state)}, the run's are {sorted(saved['state'])}; pass the same objects"
            )
        now = [len(group["params"]) for group in self.optimizer.param_groups]
        then = [len(group["params"]) for group in saved["optimizer"]["param_groups"]]
        if now != then:
            raise ModelMismatch(
                f"the optimiser has parameter groups of {now} parameters, the run's had {then}; build the same one"
            )

    def load_optimizer(self, saved: dict[str, Any], *, rates: bool) -> None:
        """Load the optimiser; without ``rates`` its hyper-parameters stay as they are."""
        if not rates:
            saved = {**saved, "param_groups": self.optimizer.state_dict()["param_groups"]}
        load_optimizer(self.optimizer, saved)


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """``load_state_dict`` with its errors in one line, and exact: torch casts state to its parameter's dtype and
    takes tensors as they lie in memory, which loses NAdam's products and can change the bits of what follows."""
    try:
        optimizer.load_state_dict(saved)
    except (ValueError, KeyError) as error:
        raise ModelMismatch(f"the optimiser is not the run's: {error}; build the same one") from error
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    names = [name for group in saved["param_groups"] for name in group["params"]]
    for name, parameter in zip(names, parameters, strict=True):
        for key, value in saved["state"].get(name, {}).items():
            if isinstance(value, Tensor):
                now = optimizer.state[parameter][key]
                optimizer.state[parameter][key] = _laid_out(value.to(now.device), parameter)


def _laid_out(value: Tensor, parameter: Tensor) -> Tensor:
    """``value`` with the strides of ``parameter``, if it has its shape, as an optimiser makes it."""
    if value.shape != parameter.shape or value.stride() == parameter.stride():
        return value
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


class Pulse:
    """Notices a parameter that was replaced during the run: the optimiser would go on with the old one."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._parameters = self._look()

    def check(self) -> None:
        """Raise ModelMismatch, naming the parameter."""
        now = self._look()
        for name, parameter in self._parameters.items():
            if now.get(name) is not parameter:
                raise ModelMismatch(
                    f"the parameter {name} was replaced or removed during the run; change it in place "
                    "(with torch.no_grad(): parameter.copy_(...))"
                )

    def _look(self) -> dict[str, nn.Parameter]:
        return {name: each for name, each in self._model.named_parameters() if not is_seed(name)}
