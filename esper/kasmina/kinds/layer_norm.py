"""``nn.LayerNorm`` over the last dimension: [..., features] to the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from esper.kasmina.kinds import FEATURES, Geometry, Kind

if TYPE_CHECKING:
    from torch import nn


class LayerNorm(Kind):
    name = "LayerNorm"
    dims = ("in", "out")
    layout = FEATURES
    unit = -1
    weightless = True

    def module(self) -> type[nn.Module]:
        from torch import nn

        return nn.LayerNorm

    def examples(self) -> list[Any]:
        from torch import nn

        return [nn.LayerNorm(6), nn.LayerNorm(5, bias=False).double(), nn.LayerNorm(8, elementwise_affine=False)]

    def refusal(self, module: Any) -> str | None:
        count = len(module.normalized_shape)
        return None if count == 1 else f"it normalises over {count} dimensions, and seeds know one of features"

    def dims_of(self, module: Any) -> tuple[int, ...]:
        (features,) = module.normalized_shape
        return int(features), int(features)

    def sample(self, dims: tuple[int, ...], geometry: Geometry) -> tuple[int, ...]:
        return 2, dims[0]

    def output(self, shape: tuple[int, ...], dims: tuple[int, ...], geometry: Geometry) -> tuple[int, ...]:
        return shape


KIND = LayerNorm()
