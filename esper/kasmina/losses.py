"""Checks what the user's loss returns: a tensor with one number for each example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from esper.errors import LossShape

Loss = Callable[[nn.Module, Any], Tensor]

EXAMPLE = (
    "return one number per example, for instance: "
    'def loss(model, batch): x, y = batch; return F.cross_entropy(model(x), y, reduction="none")'
)


def per_example(losses: Tensor) -> Tensor:
    """Losses of shape [batch]; further dimensions are averaged per example.

    Raises:
        LossShape: for a single number, or for anything but a tensor of floating point numbers.
    """
    if not isinstance(losses, Tensor):
        raise LossShape(f"loss(model, batch) returned {type(losses).__name__}; {EXAMPLE}")
    if losses.dim() == 0:
        raise LossShape(f"loss(model, batch) returned a single number; {EXAMPLE}")
    if not losses.is_floating_point():
        raise LossShape(f"loss(model, batch) returned {losses.dtype}; {EXAMPLE}")
    return losses if losses.dim() == 1 else losses.flatten(1).mean(1)
