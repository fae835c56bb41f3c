"""``conv2d``: a convolution, [N, in, H, W] to [N, out, H', W'], shaped like the site's or 1x1 (``point``)."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, Literal

from esper.errors import UsageError
from esper.kasmina.kinds import IMAGE
from esper.kasmina.kinds.conv2d import Conv2dGeometry, Padding, PaddingMode, Step
from esper.urza.operators import FitTarget, Fitted, Layer, Operator, Single, WeightedNode
from esper.urza.sizes import Number, Size, positive

if TYPE_CHECKING:
    import torch
    from torch import nn


class Conv2dLayer(Single, Layer):
    """``kernel``, ``stride``, ``padding`` and ``dilation`` are (height, width) in pixels."""

    op: Literal["conv2d"] = "conv2d"
    in_size: Number
    out_size: Number
    bias: bool
    groups: Number
    kernel: tuple[Step, Step]
    stride: tuple[Step, Step]
    padding: Padding
    dilation: tuple[Step, Step]
    padding_mode: PaddingMode

    @property
    def parameters(self) -> int:
        """``out * (in / groups * kernel_h * kernel_w)``, and ``out`` more with a bias."""
        return self.out_size * (self.in_size // self.groups * prod(self.kernel) + self.bias)

    def module(self, dtype: torch.dtype) -> nn.Module:
        """``nn.Conv2d``."""
        from torch import nn

        return nn.Conv2d(
            self.in_size,
            self.out_size,
            self.kernel,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.bias,
            self.padding_mode,
            device="meta",
            dtype=dtype,
        )


class Conv2dNode(WeightedNode):
    """A convolution shaped like the site's (``geometry`` "site") or of single pixels ("point"), in ``groups``."""

    op: Literal["conv2d"]
    geometry: Literal["site", "point"]
    groups: Size
    layouts = (IMAGE,)

    def fit(self, sizes: tuple[int, ...], target: FitTarget) -> Fitted:
        """Raises UsageError where ``groups`` do not divide the channels in and out, and for "site" where the site is no
        convolution."""
        (in_size,) = sizes
        out_size = positive(f"the output of node {self.name!r}", self.out, target.sizes)
        groups = positive(f"the groups of node {self.name!r}", self.groups, target.sizes)
        if in_size % groups or out_size % groups:
            raise UsageError(
                f"{groups} groups of node {self.name!r} do not divide its {in_size} and {out_size} channels"
            )
        layer = Conv2dLayer(
            name=self.name,
            input=self.input,
            in_size=in_size,
            out_size=out_size,
            bias=self.bias is not None,
            groups=groups,
            **self._geometry(target),
        )
        return Fitted(self, layer, out_size, 2 * layer.parameters - out_size * layer.bias)

    def _geometry(self, target: FitTarget) -> dict[str, Any]:
        if self.geometry == "point":
            return {"kernel": (1, 1), "stride": (1, 1), **Conv2dGeometry().model_dump()}
        dims = target.dims
        if "kernel_h" not in dims:
            raise UsageError(f"the node {self.name!r} has the geometry of the site, but a {target.kind.name} has none")
        kernel, stride = (dims["kernel_h"], dims["kernel_w"]), (dims["stride_h"], dims["stride_w"])
        return {"kernel": kernel, "stride": stride, **target.geometry.model_dump()}


_EXAMPLE = {
    "name": "a",
    "op": "conv2d",
    "input": "x",
    "out": "in",
    "geometry": "site",
    "groups": "in",
    "weight": "kaiming",
    "bias": "zeros",
}
EXAMPLES = (
    _EXAMPLE,
    _EXAMPLE | {"geometry": "point", "groups": 1, "weight": "zeros", "bias": None},
)
OPERATOR = Operator("conv2d", Conv2dNode, Conv2dLayer, EXAMPLES)
