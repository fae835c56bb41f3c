"""A host apart from any run: what it is made of without seeds, whether it is a run's, and taking tensors from one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from esper.errors import ModelMismatch
from esper.events.runs import ModelDescription
from esper.kasmina.seed.seed import SEED_PREFIX
from esper.kasmina.trace import expanded


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers (persistent or not) by name, fossilised seeds included."""
    named: dict[str, Tensor] = dict(model.named_parameters())
    named.update(model.named_buffers())
    return named


def is_seed(name: str) -> bool:
    """Whether a parameter or buffer belongs to a fossilised seed."""
    return any(part.startswith(SEED_PREFIX) for part in name.split("."))


def describe(model: nn.Module) -> ModelDescription:
    """The host's parameters and buffers, without seeds."""
    host = {name: each for name, each in tensors_of(model).items() if not is_seed(name)}
    return ModelDescription(
        names=tuple(host),
        shapes=tuple(tuple(each.shape) for each in host.values()),
        dtypes=tuple(str(each.dtype).removeprefix("torch.") for each in host.values()),
    )


def names_in_state_dict(model: nn.Module) -> dict[str, Any]:
    """How the names of ``tensors_of`` and of ``state_dict`` differ: ``left_out`` are the buffers that are not
    persistent, ``tied`` maps further names of shared tensors to their first ones."""
    first = {id(each): name for name, each in tensors_of(model).items()}
    every = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {
        "left_out": [
            f"{prefix}.{name}" if prefix else name
            for prefix, module in model.named_modules()
            for name in sorted(module._non_persistent_buffers_set)
        ],
        "tied": {name: first[id(each)] for name, each in every if first[id(each)] != name},
    }


def check_like(model: nn.Module, then: ModelDescription) -> None:
    """Raise ModelMismatch, naming the first difference, unless ``model`` without its seeds is as ``then``."""
    now = describe(model)
    before = dict(zip(then.names, zip(then.shapes, then.dtypes, strict=True), strict=True))
    after = dict(zip(now.names, zip(now.shapes, now.dtypes, strict=True), strict=True))
    for name in [*before, *after]:
        if name not in after or name not in before:
            where = "the run has it, the model does not" if name in before else "the model has it, the run does not"
            raise ModelMismatch(f"the model is not the run's: {name}: {where}; build the same model")
        if before[name] != after[name]:
            raise ModelMismatch(
                f"the model is not the run's: {name} is {list(after[name][0])} {after[name][1]}, in the run "
                f"{list(before[name][0])} {before[name][1]}; build the same model"
            )


def load_tensors(model: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Copy parameters and buffers in place. Buffers that a forward pass makes, drops or resizes become the saved
    ones. Raises ModelMismatch when parameters differ."""
    parameters = dict(model.named_parameters())
    buffers = dict(model.named_buffers())
    missing = [name for name in parameters if name not in saved or saved[name].shape != parameters[name].shape]
    if missing:
        raise ModelMismatch(f"the model is not the run's: {missing[0]} is not in the checkpoint; build the same model")
    with torch.no_grad():
        for name, tensor in {**parameters, **buffers}.items():
            if name in saved and saved[name].shape == tensor.shape and not expanded(tensor):
                tensor.copy_(saved[name])
            else:
                _set_buffer(model, name, saved[name].to(tensor.device) if name in saved else None)
    for name in saved.keys() - parameters.keys() - buffers.keys():
        _set_buffer(model, name, saved[name])


def _set_buffer(model: nn.Module, name: str, value: Tensor | None) -> None:
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    if value is None:
        delattr(module, leaf)
    elif leaf in module._buffers:
        module._buffers[leaf] = value
    else:
        module.register_buffer(leaf, value, persistent=False)
