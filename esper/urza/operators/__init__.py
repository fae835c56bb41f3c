"""Operators of blueprints, one module each. ``OPERATORS`` finds them by itself; a package of a user adds its own with
an entry point of the group ``esper.operators``.

An operator is two records: the *node* of a blueprint, whose sizes are symbolic and which says how its parameters begin,
and the *layer* of a kernel, whose sizes are numbers. Both are data; torch is imported only where a module is built.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from esper.kasmina.kinds import Geometry, Kind
from esper.plugins import Plugins
from esper.urza.sizes import Name, Size

if TYPE_CHECKING:
    import torch
    from torch import nn

Initial = Literal["zeros", "kaiming"]


class Part(BaseModel):
    """What nodes and layers have in common: unknown fields are refused, and nothing changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Single(Part):
    """A node or layer with one input."""

    input: Name

    @property
    def sources(self) -> tuple[str, ...]:
        """The name of the one input."""
        return (self.input,)


class Several(Part):
    """A node or layer with several inputs."""

    inputs: Annotated[tuple[Name, ...], Field(min_length=2, max_length=8)]

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of the inputs, in the order in which they are given to the layer."""
        return self.inputs


@dataclass(frozen=True, slots=True)
class FitTarget:
    """Where a blueprint is fitted: a site's kind, dims by name and geometry, and the blueprint's sizes by name."""

    kind: Kind
    dims: Mapping[str, int]
    geometry: Geometry
    sizes: Mapping[str, int]


class Layer(Part, ABC):
    """One layer of a kernel. Its inputs are ``x``, the input of the site, or layers before it."""

    name: Name
    op: str

    @property
    @abstractmethod
    def sources(self) -> tuple[str, ...]:
        """The names of its inputs, from ``Single`` or ``Several``."""

    @property
    def parameters(self) -> int:
        """How many numbers it learns."""
        return 0

    def module(self, dtype: torch.dtype) -> nn.Module | None:
        """Its module, on "meta", where no initial values are computed; None if it is only its ``compute``."""
        return None

    def compute(self, *values: torch.Tensor) -> torch.Tensor:
        """Its output of its inputs, where it has no module."""
        raise NotImplementedError(f"{self.op} has neither a module nor a function")


@dataclass(frozen=True, slots=True)
class Fitted:
    """A node at a target. ``size`` counts the features or channels that it gives, ``flops`` the floating point
    operations for one position (a vector, a pixel) where it computes; a multiply-add is two."""

    node: Node
    layer: Layer
    size: int
    flops: int


class Node(Part, ABC):
    """One node of a blueprint's graph. Its inputs are ``x``, the input of the site, or nodes before it."""

    name: Name
    op: str
    layouts: ClassVar[tuple[str, ...] | None] = None
    """Layouts of sites where it works; None for all."""

    @property
    @abstractmethod
    def sources(self) -> tuple[str, ...]:
        """The names of its inputs, from ``Single`` or ``Several``."""

    @abstractmethod
    def fit(self, sizes: tuple[int, ...], target: FitTarget) -> Fitted:
        """The node for inputs of these sizes (features or channels); raises UsageError saying why it does not fit."""

    def initialise(self, module: nn.Module, generator: torch.Generator) -> None:
        """Sets all parameters of the layer's ``module``, which hold anything, drawing from ``generator`` alone."""


class WeightedNode(Single, Node):
    """A node with a weight, shape [out, ...], and a bias unless that is None."""

    out: Size
    weight: Initial
    bias: Initial | None

    def initialise(self, module: nn.Module, generator: torch.Generator) -> None:
        """Sets weight and bias as the node says: zeros, or uniform with the variance 2 / fan_in (He et al., 2015)."""
        weight: Any = module.weight
        fan_in = weight[0].numel()
        _fill(weight, self.weight, fan_in, generator)
        if self.bias is not None:
            _fill(module.bias, self.bias, fan_in, generator)


def _fill(parameter: Any, initial: Initial, fan_in: int, generator: torch.Generator) -> None:
    """Zeros, or He and others' uniform distribution, whose variance is 2 / fan_in."""
    import torch

    if initial == "zeros":
        parameter.zero_()
        return
    bound = math.sqrt(6 / fan_in)
    values = torch.empty(parameter.shape, dtype=torch.float32, device="cpu")
    parameter.copy_(values.uniform_(-bound, bound, generator=generator))


@dataclass(frozen=True, slots=True)
class Operator:
    """``name`` is what nodes and layers have as ``op``. ``examples`` are nodes in JSON whose inputs are all ``x``: the
    contract that every operator keeps is tried on them."""

    name: str
    node: type[Node]
    layer: type[Layer]
    examples: tuple[Mapping[str, Any], ...]


OPERATORS = Plugins("operator", Operator, "esper.urza.operators", "OPERATOR", "esper.operators")
