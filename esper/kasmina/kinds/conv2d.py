"""``nn.Conv2d``: [N, in, H, W] to [N, out, H', W'], or the same without N."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from esper.kasmina.kinds import IMAGE, Geometry, Kind

if TYPE_CHECKING:
    from torch import nn

Pixels = Annotated[int, Field(strict=True, ge=0, le=2**16)]
Step = Annotated[int, Field(strict=True, ge=1, le=2**16)]
Padding = Literal["same", "valid"] | tuple[Pixels, Pixels]
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


class Conv2dGeometry(Geometry):
    """(height, width), in pixels."""

    padding: Padding = (0, 0)
    dilation: tuple[Step, Step] = (1, 1)
    padding_mode: PaddingMode = "zeros"


class Conv2d(Kind):
    """Two-dimensional convolutions; a unit is an output channel."""

    name = "Conv2d"
    dims = ("in", "out", "kernel_h", "kernel_w", "stride_h", "stride_w")
    layout = IMAGE
    unit = -3
    geometry = Conv2dGeometry
    methods = ("forward", "_conv_forward")

    def module(self) -> type[nn.Module]:
        """``nn.Conv2d``."""
        from torch import nn

        return nn.Conv2d

    def examples(self) -> list[Any]:
        """Convolutions with different kernels, strides, groups, paddings, dilations and dtypes."""
        from torch import nn

        return [
            nn.Conv2d(4, 6, 3, padding=1),
            nn.Conv2d(4, 4, 1, stride=2, groups=2, bias=False),
            nn.Conv2d(2, 3, (5, 2), stride=(3, 2), padding=(2, 0), dilation=(1, 2)),
            nn.Conv2d(2, 3, 3, padding="same", dilation=2),
            nn.Conv2d(2, 3, 3, padding="valid").double(),
            nn.Conv2d(2, 3, 7, padding=3, padding_mode="reflect"),
        ]

    def dims_of(self, module: Any) -> tuple[int, ...]:
        """Channels in and out, then the kernel's and the stride's (height, width) in pixels."""
        sizes = (module.in_channels, module.out_channels, *module.kernel_size, *module.stride)
        return tuple(int(size) for size in sizes)

    def geometry_of(self, module: Any) -> Geometry:
        """The convolution's padding, dilation and padding mode; raises ValueError for what ``Conv2dGeometry`` does not
        take."""
        return Conv2dGeometry(padding=module.padding, dilation=module.dilation, padding_mode=module.padding_mode)

    def sample(self, dims: tuple[int, ...], geometry: Conv2dGeometry) -> tuple[int, ...]:
        """Large enough for the kernel to move once, and for padding that reflects."""
        sides = (
            dilation * (side - 1) + 1 + stride
            for side, stride, dilation in zip(dims[2:4], dims[4:6], geometry.dilation, strict=True)
        )
        return 2, dims[0], *(max(side, pad + 1) for side, pad in zip(sides, _pads(geometry), strict=True))

    def output(self, shape: tuple[int, ...], dims: tuple[int, ...], geometry: Conv2dGeometry) -> tuple[int, ...]:
        """[..., out, H', W']. ``"same"`` keeps H and W; else, as torch has it, H' is ``(H + 2 * padding - dilation *
        (kernel_h - 1) - 1) // stride_h + 1``, and W' likewise."""
        sides = shape[-2:]
        if geometry.padding != "same":
            sizes = zip(sides, _pads(geometry), dims[2:4], dims[4:6], geometry.dilation, strict=True)
            sides = tuple(
                (side + 2 * pad - step * (size - 1) - 1) // stride + 1 for side, pad, size, stride, step in sizes
            )
        return *shape[:-3], dims[1], *sides


def _pads(geometry: Conv2dGeometry) -> tuple[int, int]:
    """In each direction; "same" is left to torch, which pads to both sides as it needs."""
    return (0, 0) if isinstance(geometry.padding, str) else geometry.padding


KIND = Conv2d()
