"""``gelu``: the Gaussian error linear unit, element by element, of any shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from esper.urza.operators import FitTarget, Fitted, Layer, Node, Operator, Single

if TYPE_CHECKING:
    import torch
    from torch import nn


class GeluLayer(Single, Layer):
    """The Gaussian error linear unit, ``x * Phi(x)`` (Hendrycks and Gimpel, 2016); it has no parameters."""

    op: Literal["gelu"] = "gelu"

    def module(self, dtype: torch.dtype) -> nn.Module:
        """``nn.GELU``, the exact one."""
        from torch import nn

        return nn.GELU()


class GeluNode(Single, Node):
    """The Gaussian error linear unit, as many features or channels as its input has."""

    op: Literal["gelu"]

    def fit(self, sizes: tuple[int, ...], target: FitTarget) -> Fitted:
        """Fits everywhere; one operation is counted for each number."""
        return Fitted(self, GeluLayer(name=self.name, input=self.input), sizes[0], sizes[0])


EXAMPLES = ({"name": "a", "op": "gelu", "input": "x"},)
OPERATOR = Operator("gelu", GeluNode, GeluLayer, EXAMPLES)
