"""``nn.Linear``: [..., in] to [..., out]."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from esper.kasmina.kinds import FEATURES, Geometry, Kind

if TYPE_CHECKING:
    from torch import nn


class Linear(Kind):
    """Fully connected layers; a unit is an output feature."""

    name = "Linear"
    dims = ("in", "out")
    layout = FEATURES
    unit = -1

    def module(self) -> type[nn.Module]:
        """``nn.Linear``."""
        from torch import nn

        return nn.Linear

    def examples(self) -> list[Any]:
        """Layers with and without a bias, one of a single feature, one in float64."""
        from torch import nn

        return [nn.Linear(6, 4), nn.Linear(1, 1, bias=False), nn.Linear(3, 5).double()]

    def dims_of(self, module: Any) -> tuple[int, ...]:
        """(in_features, out_features)."""
        return int(module.in_features), int(module.out_features)

    def sample(self, dims: tuple[int, ...], geometry: Geometry) -> tuple[int, ...]:
        """[2, in]."""
        return 2, dims[0]

    def output(self, shape: tuple[int, ...], dims: tuple[int, ...], geometry: Geometry) -> tuple[int, ...]:
        """The input's shape with ``out`` for its last dimension."""
        return *shape[:-1], dims[1]


KIND = Linear()
