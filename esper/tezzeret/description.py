"""What a kernel says of itself in a ``state_dict``: all that is needed to make it again in another host."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from esper.errors import ModelMismatch, UsageError
from esper.events.encoding.codec import canonical_json
from esper.tezzeret.graph import DTYPES, KernelGraph, parameters_of
from esper.urza.operators import Part

FORMAT = 1
LONGEST = 64_000  # bytes


class KernelDescription(Part):
    """``entry`` and ``exit`` are names of modules in the model that was trained: the kernel sees the input of the one,
    its effect is added to the output of the other, ``alpha`` times. ``dims`` are the site's, as in SiteTable."""

    format: int
    entry: str
    exit: str
    dims: tuple[int, ...]
    dtype: str
    alpha: float = Field(ge=0, le=1)
    graph: KernelGraph


def to_tensor(description: KernelDescription) -> Tensor:
    """uint8, shape [bytes]: canonical JSON with the SHA-256 of the rest. Raises ModelMismatch if it is too long."""
    said: dict[str, Any] = description.model_dump(mode="json")
    data = canonical_json({**said, "digest": _digest(said)}).encode()
    if len(data) > LONGEST:
        raise ModelMismatch(
            f"a kernel's description has {len(data):,} bytes, {LONGEST:,} are allowed; use a smaller one"
        )
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def from_tensor(key: str, value: object) -> KernelDescription:
    """The description that a ``state_dict`` has under ``key``; raises ModelMismatch, naming the key, if it is none."""
    if not isinstance(value, Tensor) or value.dtype != torch.uint8 or value.dim() != 1:
        what = f"{value.dtype} of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise _unusable(key, f"it is {what}, not one row of uint8: was it averaged, cast or quantised?")
    if value.numel() > LONGEST:
        raise _unusable(key, f"it has {value.numel():,} bytes, {LONGEST:,} are allowed")
    try:
        said = json.loads(bytes(value.tolist()))
        digest = said.pop("digest")
        if said["format"] != FORMAT:
            raise _unusable(key, f"its format is {said['format']!r}, this Esper reads {FORMAT}: update Esper")
        if digest != _digest(said):
            raise _unusable(key, "its digest is another: it was changed after it was written")
        description = KernelDescription.model_validate(said)
        parameters_of(description.graph)
        if not {description.dtype, description.graph.dtype} <= DTYPES.keys():
            raise _unusable(key, f"its dtype {description.dtype!r} is unknown")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, ValidationError, UsageError) as error:
        raise _unusable(key, " ".join(str(error).split())[:200]) from error
    return description


def _digest(said: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(said).encode()).hexdigest()


def _unusable(key: str, why: str) -> ModelMismatch:
    return ModelMismatch(f"{key} does not describe a seed ({why}); take the weights from where they were saved again")
