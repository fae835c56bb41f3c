"""``pool``: the mean over all positions, [N, channels, H, W] to [N, channels, 1, 1]."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from esper.kasmina.kinds import IMAGE
from esper.urza.operators import FitTarget, Fitted, Layer, Node, Operator, Single

if TYPE_CHECKING:
    import torch


class PoolLayer(Single, Layer):
    """The mean of each channel over all positions ("global average pooling"; Lin et al., 2013)."""

    op: Literal["pool"] = "pool"

    def compute(self, *values: torch.Tensor) -> torch.Tensor:
        """[..., H, W] to [..., 1, 1]."""
        (value,) = values
        return value.mean((-2, -1), keepdim=True)


class PoolNode(Single, Node):
    """The mean of each channel over all positions, as many channels as its input has."""

    op: Literal["pool"]
    layouts = (IMAGE,)

    def fit(self, sizes: tuple[int, ...], target: FitTarget) -> Fitted:
        """Fits every image; one operation is counted for each channel and position."""
        return Fitted(self, PoolLayer(name=self.name, input=self.input), sizes[0], sizes[0])


EXAMPLES = ({"name": "a", "op": "pool", "input": "x"},)
OPERATOR = Operator("pool", PoolNode, PoolLayer, EXAMPLES)
