"""Lets a model load weights that have grown: the seeds that the weights describe are made in it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from functools import partial
from types import FrameType
from typing import Any

from torch import Tensor, nn

from esper.errors import ModelMismatch, UsageError
from esper.kasmina.effect import Effect, attach, full
from esper.kasmina.seed.seed import SEED_PREFIX, holds_live_seeds, strip
from esper.kasmina.span import Span
from esper.tezzeret.description import KernelDescription, from_tensor
from esper.tezzeret.graph import DTYPES
from esper.tezzeret.module import Kernel, Placed

_EXTRA = "_extra_state"
Seeds = dict[tuple[str, str], KernelDescription]
"""By the name of the module that a kernel is attached to, in the host, and of its submodule there."""


def growable(model: nn.Module) -> nn.Module:
    """Let ``model.load_state_dict`` take weights that have grown, and return ``model``; it may be a part of another.

    The seeds of ``model`` become those of the weights, which say what each is made of; then everything is loaded as
    strictly as without seeds. Neither a log nor artifacts are needed. A copy of ``model`` is growable as well.
    ``load_state_dict`` raises ModelMismatch, and changes nothing, where the weights are not of this model or where
    what they say of a seed cannot be used.
    """
    known = (getattr(hook, "hook", hook) for hook in model._load_state_dict_pre_hooks.values())
    if _grow not in known:
        model.register_load_state_dict_pre_hook(_grow)  # type: ignore[no-untyped-call]
    return model


def join(model: nn.Module, kernel: Kernel, place: Placed, submodule: str) -> None:
    """Make ``kernel`` a part of ``model`` and its ``state_dict``: ``submodule`` of the module that ``place`` names."""
    entry, exit = model.get_submodule(place.entry), model.get_submodule(place.exit)
    kernel.placed = place
    span = Span.of(exit) if entry is exit else Span(entry, exit, _within(model, place))
    attach(Effect(kernel, full if place.alpha == 1.0 else partial(float, place.alpha)), span)
    kernel.train(exit.training)
    exit.add_module(submodule, kernel)


def _within(model: nn.Module, place: Placed) -> nn.Module:
    """The smallest module with a forward that holds both ends of a span."""
    common = 0
    entry, exit = place.entry.split(".")[:-1], place.exit.split(".")[:-1]
    while common < min(len(entry), len(exit)) and entry[common] == exit[common]:
        common += 1
    while isinstance(within := model.get_submodule(".".join(entry[:common])), nn.ModuleList | nn.ModuleDict):
        if not common:
            raise ModelMismatch(
                "a seed spans modules of a list, whose sum is not known; make a module with a forward growable"
            )
        common -= 1
    return within


def seeds_in(state: Mapping[str, Any], prefix: str = "") -> Seeds:
    """What ``state``, whose names begin with ``prefix`` and go on as those of a host, says of its seeds.

    Raises ModelMismatch where that cannot be used, or nothing is said of a seed.
    """
    found: Seeds = {}
    for key in state:
        if key.startswith(prefix) and (place := _place(key[len(prefix) :])) is not None and place not in found:
            extra = ".".join(filter(None, (*place, _EXTRA)))
            if prefix + extra not in state:
                raise ModelMismatch(
                    f"the weights have the seed {'.'.join(filter(None, place))}, but do not say what it is made of; an "
                    "older Esper saved them: take them from their run again, with esper.load or esper weights"
                )
            found[place] = from_tensor(prefix + extra, state[prefix + extra])
    return found


def _place(name: str) -> tuple[str, str] | None:
    """The module and the submodule of the seed that a tensor belongs to; None if it is the host's."""
    parts = name.split(".")
    for index, part in enumerate(parts):
        if part.startswith(SEED_PREFIX):
            return ".".join(parts[:index]), part
    return None


def _grow(model: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """A hook of ``load_state_dict``: make the seeds of ``model`` those of ``state``."""
    wanted, strict = seeds_in(state, prefix), _is_strict()
    if not wanted and not strict:
        return  # a part of the weights: what it does not name stays as it is
    now = dict(_seeds_of(model))
    if not wanted and not now:
        return
    if holds_live_seeds(model):
        raise UsageError("a run grows this model now; load the weights into a new one")
    _check(model, state, prefix, strict)
    has = {place: _essence(each.description()) for place, each in now.items()}
    same = has == {place: _essence(each) for place, each in wanted.items()}
    made = {} if same else {place: _made(model, *place, said) for place, said in wanted.items()}
    for names, kernel in now.items() if same else ((each, kernel) for each, (kernel, _) in made.items()):
        _check_seed(kernel, state, prefix + "".join(f"{name}." for name in names if name), strict)
    if same:
        return
    strip(model)
    for key, (kernel, at) in sorted(made.items(), key=lambda each: _number(each[0][1])):
        join(model, kernel, at, key[1])  # in the order of training: sums of effects depend on it, in the last bit


def _is_strict() -> bool:
    """What ``load_state_dict`` was called with: torch tells its hooks that it is strict whether it is or not."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code is not nn.Module.load_state_dict.__code__:
        frame = frame.f_back
    return True if frame is None else bool(frame.f_locals["strict"])


def _number(submodule: str) -> int:
    number = submodule.removeprefix(SEED_PREFIX)
    return int(number) if number.isdecimal() else 0


def _essence(said: KernelDescription) -> tuple[Any, ...]:
    return said.graph, said.alpha, said.entry == said.exit


def _seeds_of(model: nn.Module) -> Iterator[tuple[tuple[str, str], Kernel]]:
    """The kernels that are part of ``model``."""
    for name, module in model.named_modules():
        exit, _, leaf = name.rpartition(".")
        if leaf.startswith(SEED_PREFIX) and isinstance(module, Kernel):
            yield (exit, leaf), module


def _made(model: nn.Module, exit: str, submodule: str, said: KernelDescription) -> tuple[Kernel, Placed]:
    """A kernel as it was described, its tensors still to come, and its place in ``model``."""
    place = Placed(_entry(said, exit), exit, said.dims, said.alpha)
    for name in (place.entry, place.exit):
        try:
            model.get_submodule(name)
        except AttributeError:
            raise ModelMismatch(
                f"the weights have a seed at {name!r}, where the model has no module; build the model that was trained"
            ) from None
    like = next((each for each in model.get_submodule(exit).parameters() if each.is_floating_point()), None)
    like = next(model.parameters(), None) if like is None else like
    kernel = Kernel(said.graph, "cpu" if like is None else like.device)
    return kernel.to(DTYPES[said.dtype] if like is None else like.dtype), place


def _check_seed(kernel: Kernel, state: Mapping[str, Any], prefix: str, strict: bool) -> None:
    """Raise ModelMismatch where the tensors of a seed, whose names begin with ``prefix``, are not as it says."""
    own = dict(kernel.named_parameters())
    given = {key[len(prefix) :]: each for key, each in state.items() if key.startswith(prefix)}
    for name, mine in own.items():
        if name not in given and strict:
            raise ModelMismatch(f"the weights have no {prefix}{name}, of a seed that they describe; save them again")
        if name in given and given[name].shape != mine.shape:
            shapes = f"{list(given[name].shape)}, and its seed says {list(mine.shape)}"
            raise ModelMismatch(f"{prefix}{name} is {shapes}; take the weights from where they were saved again")
    unknown = next((name for name in given if name not in own and name != _EXTRA), None)
    if strict and unknown is not None:
        raise ModelMismatch(f"{prefix}{unknown} is no tensor of its seed; take the weights from where they were saved")


def _entry(said: KernelDescription, exit: str) -> str:
    """The name of a seed's entry in a host where its exit is called ``exit``: that may be a part of the one that was
    trained, or have it as a part."""
    if said.entry == said.exit:
        return exit
    then, now = said.exit.split("."), exit.split(".")
    while then and now and then[-1] == now[-1]:
        then, now = then[:-1], now[:-1]
    before, after = ("".join(f"{part}." for part in parts) for parts in (then, now))
    if not said.entry.startswith(before):
        raise ModelMismatch(f"the seed at {exit!r} begins at {said.entry!r}, which is not in this part of the model")
    return after + said.entry[len(before) :]


def _check(model: nn.Module, state: Mapping[str, Any], prefix: str, strict: bool) -> None:
    """Raise ModelMismatch, naming the first difference, where ``state`` without its seeds is not of ``model``: torch
    would have copied a half of it before it says so."""
    host: dict[str, Any] = {name: each for name, each in model.state_dict(keep_vars=True).items() if not _place(name)}
    given = {key[len(prefix) :]: each for key, each in state.items() if key.startswith(prefix)}
    given = {name: each for name, each in given.items() if not _place(name)}
    for name, mine in host.items():
        if name not in given:
            if strict:
                raise ModelMismatch(f"the weights are not of this model: they have no {name}; build the one trained")
        elif isinstance(mine, Tensor) and isinstance(given[name], Tensor) and mine.shape != given[name].shape:
            raise ModelMismatch(
                f"the weights are not of this model: {name} is {list(given[name].shape)}, in the model "
                f"{list(mine.shape)}; build the one that was trained"
            )
    unknown = next((name for name in given if name not in host), None)
    if strict and unknown is not None:
        raise ModelMismatch(f"the weights are not of this model: it has no {unknown}; build the one that was trained")
