"""Each seed's own optimiser, made like the host's, which never holds a seed's parameters.

It has the class and the hyper-parameters of the group that holds its site's anchor (see ``Site.parameter``), so it
follows every learning-rate scheduler without knowing of one.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from esper.errors import Unsupported
from esper.kasmina.generators import preserved

Group = dict[str, Any]

_NOT_HYPER = {"params", "param_names"}


def check_supported(optimizer: Optimizer) -> None:
    """Tries a copy of each group's optimiser on parameters of 1, 2 and 4 dimensions.

    Raises:
        Unsupported: if ``step`` needs a closure (LBFGS), or if no copy can be made for a seed.
    """
    name = type(optimizer).__name__
    if not isinstance(optimizer, Optimizer):
        raise Unsupported(f"{name} is not a torch optimiser; use one of torch.optim with per-parameter state")
    closure = list(inspect.signature(type(optimizer).step).parameters.values())[1:2]
    if closure and closure[0].default is inspect.Parameter.empty and closure[0].kind is not closure[0].VAR_POSITIONAL:
        raise Unsupported(
            f"{name} needs a closure, which the isolated pass cannot give; use an optimiser such as AdamW"
        )
    for group in optimizer.param_groups:
        try:
            _try(optimizer, group)
        except (TypeError, ValueError, RuntimeError, AssertionError, NotImplementedError, KeyError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise Unsupported(
                f"{name} cannot serve a seed ({reason}); use an optimiser with per-parameter state such as AdamW"
            ) from error


def group_of(optimizer: Optimizer, parameter: Tensor) -> Group:
    """The group that holds ``parameter``. Ask anew each step: ``load_state_dict`` replaces the groups.

    Raises:
        Unsupported: if none does.
    """
    for group in optimizer.param_groups:
        if any(candidate is parameter for candidate in group["params"]):
            return group
    raise Unsupported(
        "a site's weight is not in the optimizer; give the optimizer the parameters that the model has now"
    )


def make_like(optimizer: Optimizer, group: Group, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """A new optimiser of the same class for ``parameters``, with the hyper-parameters of ``group`` and no state."""
    hyper = _hyper(group)
    accepted = inspect.signature(type(optimizer)).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
    names = accepted.keys() | (optimizer.defaults.keys() if takes_any else set())
    made = type(optimizer)(list(parameters), **{key: value for key, value in hyper.items() if key in names})
    made.param_groups[0].update(_hyper(group))
    return made


def sync(seed_optimizer: Optimizer, group: Group, factor: float) -> None:
    """Copies all hyper-parameters of the host's ``group``; the learning rate becomes ``factor`` times the group's."""
    for own in seed_optimizer.param_groups:
        for key, value in group.items():
            if key in _NOT_HYPER or key == "lr":
                continue
            if isinstance(value, Tensor) and isinstance(own.get(key), Tensor):
                own[key].copy_(value)
            elif own.get(key) is not value:
                own[key] = copy.deepcopy(value)
        rate = group["lr"] * factor
        if isinstance(rate, Tensor) and isinstance(own["lr"], Tensor):
            own["lr"].copy_(rate)
        else:
            own["lr"] = rate


def _hyper(group: Group) -> Group:
    """Copies: a tensor that both groups held would be the host's."""
    return {key: copy.deepcopy(value) for key, value in group.items() if key not in _NOT_HYPER}


def _try(optimizer: Optimizer, group: Group) -> None:
    model = next(iter(group["params"]), torch.empty(0))
    with preserved(), torch.enable_grad():
        parameters = [nn.Parameter(torch.ones(shape, dtype=model.dtype, device=model.device)) for shape in _SHAPES]
        made = make_like(optimizer, group, parameters)
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        made.step()


_SHAPES = ((2,), (2, 2), (2, 2, 1, 1))
