"""Element by element, of any shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from esper.urza.operators import FitTarget, Fitted, Layer, Node, Operator, Single

if TYPE_CHECKING:
    import torch
    from torch import nn


class GeluLayer(Single, Layer):
    op: Literal["gelu"] = "gelu"

    def module(self, dtype: torch.dtype) -> nn.Module:
        from torch import nn

        return nn.GELU()


class GeluNode(Single, Node):
    op: Literal["gelu"]

    def fit(self, sizes: tuple[int, ...], target: FitTarget) -> Fitted:
        return Fitted(self, GeluLayer(name=self.name, input=self.input), sizes[0], sizes[0])


EXAMPLES = ({"name": "a", "op": "gelu", "input": "x"},)
OPERATOR = Operator("gelu", GeluNode, GeluLayer, EXAMPLES)
