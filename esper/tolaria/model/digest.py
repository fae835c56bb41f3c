"""Digests of state and of batches, over dtype, shape and bytes, equal in every process.

What is stored is addressed by SHA-256, and everything here is SHA-256 unless told otherwise. The state at a boundary is
digested to notice a difference, not an adversary: a run does that by the algorithm which its RunStarted names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import xxhash
from torch import Tensor

from esper.errors import RunUnusable
from esper.tamiyo.run.state import RunState
from esper.tolaria.model.tree import Skeleton, compact_json, flatten

PREFIX = 4  # bytes of each tensor's digest that an event carries
ALGORITHMS: dict[str, Callable[[bytes], hashlib._Hash | xxhash.xxh3_128]] = {
    "sha256": hashlib.sha256,  # runs before there was another, for life
    "xxh3_128": xxhash.xxh3_128,  # at memory speed
}
STATE_DIGESTS = "xxh3_128"
"""The algorithm of new runs."""


def check_algorithm(state: RunState) -> None:
    """Raise RunUnusable unless this version knows how the run digests its state."""
    if state.state_digests not in ALGORITHMS:
        raise RunUnusable(
            f"run {state.run_id} digests its state by {state.state_digests!r}; this version of Esper knows "
            f"{' and '.join(ALGORITHMS)} alone; update esper-training"
        )


@dataclass(frozen=True, slots=True)
class StateDigest:
    """``digest``: the hex digest of the whole; ``names``: its tensors, sorted; ``tensors``: PREFIX bytes for each."""

    digest: str
    names: tuple[str, ...]
    tensors: bytes

    def first_difference(self, other: bytes) -> str:
        """Where this state first differs from one whose tensor digests are ``other``, in words."""
        if len(other) != len(self.tensors):
            return f"the number of tensors ({len(self.tensors) // PREFIX} now, {len(other) // PREFIX} then)"
        for index, name in enumerate(self.names):
            if self.tensors[index * PREFIX : (index + 1) * PREFIX] != other[index * PREFIX : (index + 1) * PREFIX]:
                return name
        return "a value that is not a tensor"


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor of any dtype, without a copy where it is contiguous and on the CPU."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def tensor_digest(tensor: Tensor, algorithm: str = "sha256") -> bytes:
    """The digest of dtype, shape and bytes."""
    digest = ALGORITHMS[algorithm](f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    digest.update(tensor_bytes(tensor))
    return digest.digest()


def digest_of(skeleton: Skeleton, digests: Mapping[str, bytes], algorithm: str = "sha256") -> StateDigest:
    """The digest of a state from its skeleton and the digests of its tensors by the same algorithm."""
    names = tuple(sorted(digests))
    whole = ALGORITHMS[algorithm](compact_json(skeleton))
    for name in names:
        whole.update(name.encode() + b"\0" + digests[name])
    return StateDigest(whole.hexdigest(), names, b"".join(digests[name][:PREFIX] for name in names))


def digest_tree(tree: Any, algorithm: str = "sha256") -> StateDigest:
    """The digest of a state tree by one of ALGORITHMS."""
    skeleton, tensors = flatten(tree)
    digests = {name: tensor_digest(tensor, algorithm) for name, tensor in tensors.items()}
    return digest_of(skeleton, digests, algorithm)


def batch_digest(batch: Any) -> str:
    """Hex SHA-256 of a batch: nested lists, tuples and dicts of tensors, arrays, numbers and strings.

    Anything else counts by its type alone.
    """
    digest = hashlib.sha256()
    _feed(batch, digest)
    return digest.hexdigest()


def _feed(value: Any, digest: hashlib._Hash) -> None:
    if isinstance(value, Tensor):
        digest.update(tensor_digest(value))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            digest.update(str(key).encode() + b"\0")
            _feed(item, digest)
    elif isinstance(value, list | tuple):
        digest.update(f"[{len(value)}".encode())
        for item in value:
            _feed(item, digest)
    elif value is None or isinstance(value, bool | int | float | str | bytes):
        digest.update(repr(value).encode() + b"\0")
    elif hasattr(value, "__array__"):
        digest.update(tensor_digest(torch.as_tensor(value)))
    else:
        digest.update(type(value).__qualname__.encode())
