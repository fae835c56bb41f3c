"""A kernel as a PyTorch module, made as its graph describes it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from esper.errors import ModelMismatch, UsageError
from esper.tezzeret.description import FORMAT, KernelDescription, from_tensor, to_tensor
from esper.tezzeret.graph import DTYPES, KernelGraph
from esper.urza.operators import Layer


@dataclass(frozen=True)
class Placed:
    """Where a kernel is attached, as its Description says; the fields are the same."""

    entry: str = ""
    exit: str = ""
    dims: tuple[int, ...] = ()
    alpha: float = 1.0


class Kernel(nn.Module):
    """The module that a graph describes. Its forward maps the input of its site to the effect, whose shape is that of
    the site's output."""

    def __init__(self, graph: KernelGraph, device: torch.device | str) -> None:
        """Parameters are allocated on ``device`` and hold anything; no random generator is touched."""
        super().__init__()
        self.graph, self.placed = graph, Placed()
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
        """The effect for the site's input ``x``: each layer is computed once, in the graph's order."""
        values = {"x": x}
        for name, sources in self._wiring:
            values[name] = self._modules[name](*(values[source] for source in sources))  # type: ignore[misc]
        return values[self.graph.output]

    def get_extra_state(self) -> Tensor:
        """What ``state_dict`` says of the kernel itself: uint8, shape [bytes]."""
        return to_tensor(self.description())

    def set_extra_state(self, state: Tensor) -> None:
        """Raises ModelMismatch unless ``state`` describes this kernel."""
        if from_tensor("_extra_state", state).graph != self.graph:
            raise ModelMismatch(
                f"the seed at {self.placed.exit!r} is another one in the weights; call esper.growable(model) before "
                "load_state_dict, so that the seeds become those of the weights"
            )

    def description(self) -> KernelDescription:
        """What it is made of, and where it is attached."""
        dtype = str(next((each.dtype for each in self.parameters()), DTYPES[self.graph.dtype]))
        return KernelDescription(format=FORMAT, dtype=dtype, graph=self.graph, **vars(self.placed))


class Computation(nn.Module):
    """A layer that is only a function of its inputs."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *values: Tensor) -> Tensor:
        """What the layer computes of its inputs."""
        return self.layer.compute(*values)
