"""A kernel: the graph with concrete sizes, and the module that it describes."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from esper.errors import UsageError
from esper.urza.blueprint import Kind, Part
from esper.urza.fit import PARAMETER_LIMIT
from esper.urza.sizes import Name, Number

DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16)}

_Pixels = Annotated[int, Field(strict=True, ge=0, le=2**16)]
_Step = Annotated[int, Field(strict=True, ge=1, le=2**16)]
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


class LinearLayer(Part):
    name: Name
    op: Literal["linear"] = "linear"
    input: Name
    in_size: Number
    out_size: Number
    bias: bool

    @property
    def parameters(self) -> int:
        return self.out_size * (self.in_size + self.bias)


class Conv2dLayer(Part):
    """``kernel``, ``stride``, ``padding`` and ``dilation`` are (height, width) in pixels."""

    name: Name
    op: Literal["conv2d"] = "conv2d"
    input: Name
    in_size: Number
    out_size: Number
    bias: bool
    groups: Number
    kernel: tuple[_Step, _Step]
    stride: tuple[_Step, _Step]
    padding: Literal["same", "valid"] | tuple[_Pixels, _Pixels]
    dilation: tuple[_Step, _Step]
    padding_mode: PaddingMode

    @property
    def parameters(self) -> int:
        return self.out_size * (self.in_size // self.groups * math.prod(self.kernel) + self.bias)


class GeluLayer(Part):
    name: Name
    op: Literal["gelu"] = "gelu"
    input: Name

    @property
    def parameters(self) -> int:
        return 0


Layer = Annotated[LinearLayer | Conv2dLayer | GeluLayer, Field(discriminator="op")]


class KernelGraph(Part):
    """A compiled blueprint without its tensors. Layers are in the order they are computed."""

    format: Literal[1] = 1
    kind: Kind
    dtype: str
    layers: tuple[Layer, ...] = Field(min_length=1, max_length=32)
    output: Name


class Kernel(nn.Module):
    """The module that a graph describes. Its forward maps the input of the site's module to the effect.

    Linear: [..., in] to [..., out]; Conv2d: [N, in, H, W] or [in, H, W] to the shape of the site's output.
    """

    def __init__(self, graph: KernelGraph, device: torch.device | str) -> None:
        """Parameters are allocated on ``device`` and hold anything; no random generator is touched."""
        super().__init__()
        self.graph = graph
        self._wiring = tuple((layer.name, layer.input) for layer in graph.layers)
        known = {"x"}
        for layer in graph.layers:
            if layer.input not in known or layer.name in known or hasattr(self, layer.name):
                raise UsageError(f"the node {layer.name!r} has an input that is not before it, or a name that is taken")
            known.add(layer.name)
            # On "meta" no initial values are computed, so nothing is drawn from torch's generator.
            self.add_module(layer.name, _module(layer, DTYPES[graph.dtype]))
        if graph.output not in known - {"x"}:
            raise UsageError(f"the output {graph.output!r} is no node")
        self.to_empty(device=device)

    def forward(self, x: Tensor) -> Tensor:
        values = {"x": x}
        for name, source in self._wiring:
            values[name] = self._modules[name](values[source])  # type: ignore[misc]
        return values[self.graph.output]


def parameters_of(graph: KernelGraph) -> int:
    """How many parameters a kernel of this graph has; raises UsageError if there are too many."""
    count = sum(layer.parameters for layer in graph.layers)
    if count > PARAMETER_LIMIT:
        raise UsageError(f"it would have {count} parameters; {PARAMETER_LIMIT} are allowed")
    return count


def _module(layer: LinearLayer | Conv2dLayer | GeluLayer, dtype: torch.dtype) -> nn.Module:
    if isinstance(layer, GeluLayer):
        return nn.GELU()
    if isinstance(layer, LinearLayer):
        return nn.Linear(layer.in_size, layer.out_size, layer.bias, device="meta", dtype=dtype)
    return nn.Conv2d(
        layer.in_size,
        layer.out_size,
        layer.kernel,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups,
        layer.bias,
        layer.padding_mode,
        device="meta",
        dtype=dtype,
    )
