"""``nn.LayerNorm`` over the last dimension: [..., features] to the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from esper.kasmina.kinds import FEATURES, Geometry, Kind

if TYPE_CHECKING:
    from torch import nn


class LayerNorm(Kind):
    """Layer normalisation over one dimension of features, with a weight or without; a unit is a feature."""

    name = "LayerNorm"
    dims = ("in", "out")
    layout = FEATURES
    unit = -1
    weightless = True

    def module(self) -> type[nn.Module]:
        """``nn.LayerNorm``."""
        from torch import nn

        return nn.LayerNorm

    def examples(self) -> list[Any]:
        """Normalisations with weight and bias, without the bias, and without both."""
        from torch import nn

        return [nn.LayerNorm(6), nn.LayerNorm(5, bias=False).double(), nn.LayerNorm(8, elementwise_affine=False)]

    def refusal(self, module: Any) -> str | None:
        """Refuses one that normalises over several dimensions."""
        count = len(module.normalized_shape)
        return None if count == 1 else f"it normalises over {count} dimensions, and seeds know one of features"

    def dims_of(self, module: Any) -> tuple[int, ...]:
        """The number of features, twice: a normalisation gives as many as it gets."""
        (features,) = module.normalized_shape
        return int(features), int(features)

    def sample(self, dims: tuple[int, ...], geometry: Geometry) -> tuple[int, ...]:
        """[2, features]."""
        return 2, dims[0]

    def output(self, shape: tuple[int, ...], dims: tuple[int, ...], geometry: Geometry) -> tuple[int, ...]:
        """The input's shape."""
        return shape


KIND = LayerNorm()
