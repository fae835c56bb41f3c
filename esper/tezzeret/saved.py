"""A grown model from a file of weights, whatever wrapped the model when they were saved."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from esper.errors import UsageError
from esper.kasmina.seed.seed import SEED_PREFIX
from esper.tezzeret.grown import growable

State = Mapping[str, Any]
COMPILED = "_orig_mod."
NESTED = ("state_dict", "model_state_dict", "model")  # where programs keep a state_dict among other things
FOLDER = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def build(source: str | Path | State, model: nn.Module) -> nn.Module:
    """Load weights, seeds included, into ``model``, a host as it was before it grew; returns ``model``.

    ``source`` is a ``state_dict``, a .safetensors file, a file of ``torch.save`` (nothing but tensors is unpickled) or
    a folder as Hugging Face saves them. Prefixes of wrappers (``module.``, ``_orig_mod.``, ``model.`` and the like) are
    found by comparing names with the model's. ``model`` may be on "meta"; it is growable afterwards.

    Raises ModelMismatch, and changes nothing, where the weights are not of this model; UsageError for another source.
    """
    state = source if isinstance(source, Mapping) else _read(Path(source))
    inner = getattr(model, "_orig_mod", model)
    if not isinstance(inner, nn.Module):
        raise UsageError(f"{type(model).__name__} is no torch module; give the host itself")
    growable(inner)
    fitted = _completed(_fitted(state, inner), inner)
    inner.load_state_dict(fitted, strict=True, assign=any(each.is_meta for each in inner.parameters()))
    return model


def _read(path: Path) -> State:
    """The tensors of a file or folder by name; raises UsageError."""
    if path.is_dir():
        for name in FOLDER:
            if (path / name).exists():
                return _shards(path / name) if name.endswith(".json") else _read(path / name)
        raise UsageError(f"{path} holds no weights; it should have one of {', '.join(FOLDER)}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's about pickles of other versions: they are refused or read
            return _tensors_of(path, torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist; name a .safetensors file or one of torch.save") from None
    except UnpicklingError as error:
        raise UsageError(f"{path} holds more than tensors, which is never unpickled; save a state_dict") from error
    except (SafetensorError, RuntimeError, ValueError, AssertionError, EOFError, OSError) as error:
        raise UsageError(f"{path} cannot be read as weights: {' '.join(str(error).split())[:200]}") from error


def _shards(index: Path) -> State:
    state: dict[str, Any] = {}
    for name in sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values())):
        state |= _read(index.parent / Path(name).name)
    return state


def _tensors_of(path: Path, loaded: object) -> State:
    """The ``state_dict`` in what a program saved."""
    if isinstance(loaded, Mapping):
        for name in NESTED:
            if isinstance(loaded.get(name), Mapping):
                return _tensors_of(path, loaded[name])
        if any(isinstance(each, Tensor) for each in loaded.values()):
            return loaded
    raise UsageError(f"{path} holds no state_dict; save model.state_dict()")


def _fitted(state: State, model: nn.Module) -> dict[str, Any]:
    """``state`` with the names that ``model`` gives its tensors."""
    plain = {key.replace(COMPILED, ""): each for key, each in state.items()}
    host = [name for name in model.state_dict(keep_vars=True) if SEED_PREFIX not in name]
    given = {key for key in plain if SEED_PREFIX not in key}
    taken, added = max(_prefixes(given, host), key=lambda each: _matches(given, host, *each))
    return {added + key[len(taken) :]: each for key, each in plain.items() if key.startswith(taken)}


def _prefixes(given: set[str], host: list[str]) -> list[tuple[str, str]]:
    """(what to take off the names, what to put before them) so that some name is the model's; first nothing."""
    found = {("", ""): None}
    for name in host:
        leaf = name.rpartition(".")[2]
        for key in given:
            if key.endswith(name):
                found[key[: -len(name)], ""] = None
            elif name.endswith(key) and key.rpartition(".")[2] == leaf:
                found["", name[: -len(key)]] = None
        if len(found) > 1:
            break
    whole = [(taken, added) for taken, added in found if all(not each or each.endswith(".") for each in (taken, added))]
    return sorted(whole, key=lambda each: len(each[0]) + len(each[1]))


def _matches(given: set[str], host: list[str], taken: str, added: str) -> int:
    return sum(name.startswith(added) and taken + name[len(added) :] in given for name in host)


def _completed(state: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """With the other names of shared tensors, which some files leave out, and without buffers that are not saved."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    shared: dict[int, list[str]] = {}
    for name, tensor in named:
        shared.setdefault(id(tensor), []).append(name)
    for names in shared.values():
        there = next((name for name in names if name in state), None)
        state |= {name: state[there] for name in names if there is not None and name not in state}
    saved = model.state_dict(keep_vars=True)
    left_out = {name for name, _ in named if name not in saved}
    return {name: each for name, each in state.items() if name not in left_out}
