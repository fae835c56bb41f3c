"""A kernel: the graph with concrete sizes, and the module that it describes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PlainValidator, SerializeAsAny
from torch import Tensor, nn

from esper.errors import UsageError
from esper.urza.blueprint import KindName, operator_of
from esper.urza.fit import PARAMETER_LIMIT
from esper.urza.operators import Layer, Part
from esper.urza.sizes import Name

DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16)}


def _layer(value: Any) -> Layer:
    return value if isinstance(value, Layer) else operator_of(value).layer.model_validate(value)


class KernelGraph(Part):
    """A compiled blueprint without its tensors. Layers are in the order they are computed."""

    format: Literal[1] = 1
    kind: KindName
    dtype: str
    layers: tuple[Annotated[SerializeAsAny[Layer], PlainValidator(_layer)], ...] = Field(min_length=1, max_length=32)
    output: Name


class Kernel(nn.Module):
    """The module that a graph describes. Its forward maps the input of its site to the effect, whose shape is that of
    the site's output."""

    def __init__(self, graph: KernelGraph, device: torch.device | str) -> None:
        """Parameters are allocated on ``device`` and hold anything; no random generator is touched."""
        super().__init__()
        self.graph = graph
        self._wiring = tuple((layer.name, layer.sources) for layer in graph.layers)
        known = {"x"}
        for layer in graph.layers:
            if not known.issuperset(layer.sources) or layer.name in known or hasattr(self, layer.name):
                raise UsageError(f"the node {layer.name!r} has an input that is not before it, or a name that is taken")
            known.add(layer.name)
            # On "meta" no initial values are computed, so nothing is drawn from torch's generator.
            self.add_module(layer.name, layer.module(DTYPES[graph.dtype]) or Computation(layer))
        if graph.output not in known - {"x"}:
            raise UsageError(f"the output {graph.output!r} is no node")
        self.to_empty(device=device)

    def forward(self, x: Tensor) -> Tensor:
        values = {"x": x}
        for name, sources in self._wiring:
            values[name] = self._modules[name](*(values[source] for source in sources))  # type: ignore[misc]
        return values[self.graph.output]


class Computation(nn.Module):
    """A layer that is only a function of its inputs."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *values: Tensor) -> Tensor:
        return self.layer.compute(*values)


def parameters_of(graph: KernelGraph) -> int:
    """How many parameters a kernel of this graph has; raises UsageError if there are too many."""
    count = sum(layer.parameters for layer in graph.layers)
    if count > PARAMETER_LIMIT:
        raise UsageError(f"it would have {count} parameters; {PARAMETER_LIMIT} are allowed")
    return count
