"""``linear``: a fully connected layer, [..., in] to [..., out]. Without ``bias`` it has none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from esper.kasmina.kinds import FEATURES
from esper.urza.operators import FitTarget, Fitted, Layer, Operator, Single, WeightedNode
from esper.urza.sizes import Number, positive

if TYPE_CHECKING:
    import torch
    from torch import nn


class LinearLayer(Single, Layer):
    """A fully connected layer from ``in_size`` to ``out_size`` features."""

    op: Literal["linear"] = "linear"
    in_size: Number
    out_size: Number
    bias: bool

    @property
    def parameters(self) -> int:
        """``out * in``, and ``out`` more with a bias."""
        return self.out_size * (self.in_size + self.bias)

    def module(self, dtype: torch.dtype) -> nn.Module:
        """``nn.Linear``."""
        from torch import nn

        return nn.Linear(self.in_size, self.out_size, self.bias, device="meta", dtype=dtype)


class LinearNode(WeightedNode):
    """A fully connected layer that gives ``out`` features."""

    op: Literal["linear"]
    layouts = (FEATURES,)

    def fit(self, sizes: tuple[int, ...], target: FitTarget) -> Fitted:
        """Fits inputs of any size; raises UsageError if ``out`` comes to no positive number."""
        (in_size,) = sizes
        out_size = positive(f"the output of node {self.name!r}", self.out, target.sizes)
        bias = self.bias is not None
        layer = LinearLayer(name=self.name, input=self.input, in_size=in_size, out_size=out_size, bias=bias)
        return Fitted(self, layer, out_size, out_size * (2 * in_size + bias))


EXAMPLES = (
    {"name": "a", "op": "linear", "input": "x", "out": 3, "weight": "kaiming", "bias": None},
    {"name": "a", "op": "linear", "input": "x", "out": {"mul": ["in", 2]}, "weight": "zeros", "bias": "kaiming"},
)
OPERATOR = Operator("linear", LinearNode, LinearLayer, EXAMPLES)
