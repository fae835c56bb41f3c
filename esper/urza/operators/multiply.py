"""``multiply``: the product of several inputs of one size, element by element; a single position counts for all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from esper.errors import UsageError
from esper.urza.operators import FitTarget, Fitted, Layer, Node, Operator, Several

if TYPE_CHECKING:
    import torch


class MultiplyLayer(Several, Layer):
    """The product of its inputs, whose shapes are broadcast as PyTorch does."""

    op: Literal["multiply"] = "multiply"

    def compute(self, *values: torch.Tensor) -> torch.Tensor:
        """The product, element by element."""
        product = values[0]
        for value in values[1:]:
            product = product * value
        return product


class MultiplyNode(Several, Node):
    """The product of several inputs, as large as each of them."""

    op: Literal["multiply"]

    def fit(self, sizes: tuple[int, ...], target: FitTarget) -> Fitted:
        """Raises UsageError for inputs of different sizes."""
        if len(set(sizes)) > 1:
            raise UsageError(
                f"the node {self.name!r} multiplies sizes {', '.join(map(str, sizes))}; they must be equal"
            )
        layer = MultiplyLayer(name=self.name, inputs=self.inputs)
        return Fitted(self, layer, sizes[0], sizes[0] * (len(sizes) - 1))


EXAMPLES = (
    {"name": "a", "op": "multiply", "inputs": ["x", "x"]},
    {"name": "a", "op": "multiply", "inputs": ["x", "x", "x"]},
)
OPERATOR = Operator("multiply", MultiplyNode, MultiplyLayer, EXAMPLES)
