"""Digests of state and of batches: SHA-256 over dtype, shape and bytes, equal in every process."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from esper.tolaria.tree import Skeleton, compact_json, flatten

PREFIX = 4  # bytes of each tensor's digest that an event carries


@dataclass(frozen=True, slots=True)
class StateDigest:
    """``digest``: hex SHA-256 of the whole; ``names``: its tensors, sorted; ``tensors``: PREFIX bytes for each."""

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


def tensor_digest(tensor: Tensor) -> bytes:
    """SHA-256 of dtype, shape and bytes."""
    digest = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    digest.update(tensor_bytes(tensor))
    return digest.digest()


def digest_of(skeleton: Skeleton, digests: Mapping[str, bytes]) -> StateDigest:
    """The digest of a state from its skeleton and the digests of its tensors."""
    names = tuple(sorted(digests))
    whole = hashlib.sha256(compact_json(skeleton))
    for name in names:
        whole.update(name.encode() + b"\0" + digests[name])
    return StateDigest(whole.hexdigest(), names, b"".join(digests[name][:PREFIX] for name in names))


def digest_tree(tree: Any) -> StateDigest:
    """The digest of a state tree."""
    skeleton, tensors = flatten(tree)
    return digest_of(skeleton, {name: tensor_digest(tensor) for name, tensor in tensors.items()})


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
