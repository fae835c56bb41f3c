"""State as a tree: nested plain data with tensors, split into a JSON skeleton and named tensors, and back.

``state_dict``s made of tensors, numbers, strings, lists, tuples, dicts and the like round-trip exactly: int keys,
tuples, infinities, NaN and ``Counter``s are kept (plain JSON would break MultiStepLR and ReduceLROnPlateau).
"""

from __future__ import annotations

import json
import math
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from esper.errors import CorruptArtifact, Unsupported

Skeleton = Any  # JSON: null, booleans, numbers, strings, lists, and one-key objects that tag everything else

_DICTS: dict[str, Callable[[list[tuple[Any, Any]]], Any]] = {
    "counter": lambda pairs: Counter(dict(pairs)),
    "ordered": OrderedDict,
    "dict": dict,
}


def flatten(tree: Any) -> tuple[Skeleton, dict[str, Tensor]]:
    """The skeleton of ``tree`` and its tensors by path (``optimizer.state.0.exp_avg``), not copied.

    Raises Unsupported for a value that is not plain data, naming its path.
    """
    tensors: dict[str, Tensor] = {}
    return _split(tree, "", tensors), tensors


def unflatten(skeleton: Skeleton, tensors: Mapping[str, Tensor]) -> Any:
    """The tree that ``flatten`` split; raises CorruptArtifact for a skeleton that this version does not know."""
    if skeleton is None or isinstance(skeleton, bool | int | float | str):
        return skeleton
    if isinstance(skeleton, list):
        return [unflatten(item, tensors) for item in skeleton]
    ((tag, value),) = skeleton.items()
    if tag == "tensor":
        return tensors[value]
    if tag == "array":
        return tensors[value].numpy().copy()
    if tag == "float":
        return float(value)
    if tag == "tuple":
        return tuple(unflatten(item, tensors) for item in value)
    if tag in _DICTS:
        return _DICTS[tag]([(unflatten(key, tensors), unflatten(item, tensors)) for key, item in value])
    if tag in ("set", "frozenset"):
        return (set if tag == "set" else frozenset)(unflatten(item, tensors) for item in value)
    if tag == "deque":
        return deque((unflatten(item, tensors) for item in value[1]), maxlen=value[0])
    if tag == "bytes":
        return bytes.fromhex(value)
    if tag == "scalar":
        return np.dtype(value[0]).type(unflatten(value[1], tensors))
    raise CorruptArtifact(
        f"a checkpoint holds the kind {tag!r}, which this version of Esper does not know; update Esper"
    )


def compact_json(skeleton: Skeleton) -> bytes:
    """A skeleton, or what is made of skeletons, as JSON with sorted keys and no spaces: what ``canonical_json`` gives,
    without its walk, since a skeleton is plain JSON already."""
    return json.dumps(skeleton, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _split(value: Any, path: str, tensors: dict[str, Tensor]) -> Skeleton:
    if isinstance(value, Tensor) and value.layout is torch.strided and not value.is_quantized:
        return {"tensor": _add(value.detach(), path, tensors)}
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, np.generic) and not isinstance(value.item(), np.generic):
        return {"scalar": [str(value.dtype), _split(value.item(), path, tensors)]}
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": repr(float(value))}
    if isinstance(value, dict):
        tag = "counter" if isinstance(value, Counter) else "ordered" if isinstance(value, OrderedDict) else "dict"
        return {tag: [[_split(k, path, tensors), _split(v, _join(path, k), tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple | deque):
        if type(value) is tuple and all(type(item) is int for item in value):
            return {"tuple": list(value)}  # Python's random generator is 625 numbers: worth a shorter way
        items = [_split(item, _join(path, index), tensors) for index, item in enumerate(value)]
        if isinstance(value, deque):
            return {"deque": [value.maxlen, items]}
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, set | frozenset):
        tag = "set" if isinstance(value, set) else "frozenset"
        return {tag: sorted((_split(item, path, tensors) for item in value), key=repr)}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, np.ndarray) and (copied := _from_numpy(value)) is not None:
        return {"array": _add(copied, path, tensors)}
    raise Unsupported(
        f"{path or 'the state'} holds a {_kind(value)}; a state_dict may hold tensors, numbers, strings, "
        "lists, tuples, sets and dicts"
    )


def _add(tensor: Tensor, path: str, tensors: dict[str, Tensor]) -> str:
    """The name that ``tensor`` gets: its path, unless another's reads alike, as those of the keys 1 and "1" do."""
    while path in tensors:
        path += "'"
    tensors[path] = tensor
    return path


def _from_numpy(array: np.ndarray[Any, Any]) -> Tensor | None:
    """A copy as a tensor; None for a dtype that torch does not have."""
    try:
        return torch.from_numpy(np.array(array, order="C"))
    except (TypeError, ValueError):
        return None


def _kind(value: Any) -> str:
    name = type(value).__qualname__
    if isinstance(value, np.ndarray):
        return f"{name} of {value.dtype}"
    return f"{value.layout} tensor" if isinstance(value, Tensor) else name


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)
