"""What Esper refuses before a run begins, by name and with the remedy: what it would get wrong without a word."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from esper.errors import Unsupported
from esper.kasmina.seed.optimizers import check_supported

WRAPPERS = {"DistributedDataParallel", "DataParallel", "FullyShardedDataParallel", "FSDPModule"}
"""By name: importing them takes longer than starting a run."""


def check(model: nn.Module, optimizer: Any, loss: Any, state: Mapping[str, Any]) -> None:
    """Raise Unsupported for what no run can be made of."""
    _check_ranks()
    _check_model(model)
    _check_optimizer(model, optimizer)
    _check_loss(model, loss)
    for name, value in state.items():
        _check_state(name, value)


def _check_ranks() -> None:
    """One process trains a run."""
    ranks = os.environ.get("WORLD_SIZE", "1").strip()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        ranks = str(torch.distributed.get_world_size())
    if ranks.isdecimal() and int(ranks) > 1:
        raise Unsupported(
            f"there are {ranks} ranks (torchrun, WORLD_SIZE), each of which would grow another network; "
            "start the program as one process"
        )


def _check_model(model: nn.Module) -> None:
    for name, module in model.named_modules():
        where = f"{name!r} in the model" if name else "the model"
        if WRAPPERS & _names(type(module)):
            raise Unsupported(
                f"{where} is wrapped in {type(module).__name__}, whose replicas would grow apart; pass the module "
                "inside it, and train in one process"
            )
        if _compiled(module):
            raise Unsupported(
                f"{where} is compiled (torch.compile), which does not see seeds that come later; pass the module as "
                "it was before"
            )
    sharded = next((name for name, each in model.named_parameters() if "DTensor" in _names(type(each.data))), None)
    if sharded is not None:
        raise Unsupported(f"the parameter {sharded} is distributed (DTensor); train in one process with plain tensors")


def _check_optimizer(model: nn.Module, optimizer: Any) -> None:
    parts = getattr(optimizer, "__dict__", {})
    inner = parts.get("optimizer", parts.get("_optimizer"))
    if isinstance(optimizer, torch.optim.Optimizer) and isinstance(inner, torch.optim.Optimizer):
        raise Unsupported(
            f"the optimiser is wrapped in {type(optimizer).__name__}, which steps by rules of its own; pass the "
            f"{type(inner).__name__} inside it, and let run.step be the only one to step it"
        )
    check_supported(optimizer)
    given = {id(each) for group in optimizer.param_groups for each in group["params"]}
    trained = [each for each in model.parameters() if each.requires_grad]
    if not trained:
        raise Unsupported("every parameter of the model is frozen, so nothing is trained; unfreeze what shall learn")
    if not any(id(each) in given for each in trained):
        raise Unsupported(
            "the optimiser has none of the model's parameters that are trained; make it of model.parameters(), after "
            "the model is on its device"
        )


def _check_loss(model: nn.Module, loss: Any) -> None:
    if _is_compiled(loss):
        raise Unsupported(
            "the loss is compiled (torch.compile), which does not see seeds that come later; pass the plain function"
        )
    if any(getattr(each, "_orig_mod", None) is model for each in _reached(loss)):
        raise Unsupported("the loss calls a compiled copy of the model; let it call the model that it is given")
    try:
        inspect.signature(loss).bind(model, None)
    except TypeError as error:
        raise Unsupported(f"loss must take two arguments, loss(model, batch): {error}") from error


def _check_state(name: str, value: Any) -> None:
    if isinstance(value, torch.amp.GradScaler):
        raise Unsupported(
            f"state[{name!r}] is a GradScaler, which is not supported yet; use bfloat16 autocast inside loss"
        )
    if isinstance(value, torch.optim.swa_utils.AveragedModel):
        raise Unsupported(
            f"state[{name!r}] is an AveragedModel, which pairs parameters by their order and breaks when the "
            "model grows; average by name instead"
        )
    if not callable(getattr(value, "state_dict", None)) or not callable(getattr(value, "load_state_dict", None)):
        raise Unsupported(f"state[{name!r}] has no state_dict and load_state_dict; only such objects can be recovered")


def _compiled(module: nn.Module) -> bool:
    return "_orig_mod" in module._modules or module._compiled_call_impl is not None


def _is_compiled(function: Any) -> bool:
    """Whether torch.compile made ``function``, a method or a partial of one, or what is called in an object."""
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, nn.Module):
        return any(_compiled(module) for module in function.modules())
    method = inspect.getattr_static(type(function), "__call__", None)
    parts = (function, getattr(function, "__func__", None), method)
    return any(hasattr(part, "_torchdynamo_orig_callable") for part in parts)


def _names(found: type) -> set[str]:
    """The names of a class and of those that it is derived from, as far as they are torch's."""
    return {each.__name__ for each in found.__mro__ if each.__module__.startswith("torch.")}


def _reached(function: Callable[..., Any]) -> Iterator[Any]:
    """What a function holds from where it was defined: nonlocals, globals it names, defaults."""
    while isinstance(function, functools.partial):
        yield from (*function.args, *function.keywords.values())
        function = function.func
    if inspect.isfunction(function):
        held = inspect.getclosurevars(function)
        yield from (*held.nonlocals.values(), *held.globals.values(), *(function.__defaults__ or ()))
