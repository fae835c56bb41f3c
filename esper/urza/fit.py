"""Fits a blueprint to a site's kind and shapes: every size a number, every parameter counted. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from esper.errors import UsageError
from esper.events.assets import BlueprintRegistered
from esper.urza.blueprint import Conv2dNode, Definition, GeluNode, Graph, LinearNode, checked_definition
from esper.urza.sizes import Size, value_of

PARAMETER_LIMIT = 50_000_000
_DIMS = {"Linear": 2, "Conv2d": 6}


@dataclass(frozen=True, slots=True)
class FittedNode:
    """A node with its sizes: features or channels in and out, ``kernel`` (height, width) of a convolution."""

    node: LinearNode | Conv2dNode | GeluNode
    in_size: int
    out_size: int
    groups: int = 1
    kernel: tuple[int, int] = (1, 1)

    @property
    def parameters(self) -> int:
        if isinstance(self.node, GeluNode):
            return 0
        weight = self.out_size * (self.in_size // self.groups) * prod(self.kernel)
        return weight + (self.out_size if self.node.bias is not None else 0)


def fit(definition: Definition, kind: str, dims: Sequence[int]) -> tuple[FittedNode, ...]:
    """The nodes of the blueprint's graph for a site of ``kind`` and ``dims`` (as in a SiteTable).

    Raises UsageError saying why it does not fit: another kind of site, a size that is not defined, is below 1 or
    too large, a wrong input, an output of another size than the site's.
    """
    graph = definition.graphs.get(kind)  # type: ignore[call-overload]
    if graph is None:
        raise UsageError(f"it is for {', '.join(sorted(definition.graphs))}, not for {kind}")
    if len(dims) != _DIMS[kind]:
        raise UsageError(f"a {kind} has {_DIMS[kind]} dims, not {len(dims)}")
    if min(dims) < 1:
        raise UsageError(f"the site's dims are {list(dims)}; each must be at least 1")
    names = _sizes(graph, dims)
    nodes = _chain(graph, kind, dims, names)
    if nodes[graph.output].out_size != dims[1]:
        raise UsageError(f"its output has size {nodes[graph.output].out_size}, the site's {dims[1]}")
    fitted = tuple(nodes.values())
    parameters = sum(node.parameters for node in fitted)
    if not 1 <= parameters <= PARAMETER_LIMIT:
        raise UsageError(f"it would have {parameters} parameters; 1 to {PARAMETER_LIMIT} are allowed")
    return fitted


def parameter_count(blueprint: BlueprintRegistered, kind: str, dims: Sequence[int]) -> int:
    """How many parameters ``blueprint`` adds at a site of ``kind`` and ``dims``; -1 where it does not fit."""
    try:
        return sum(node.parameters for node in fit(checked_definition(blueprint), kind, dims))
    except UsageError:
        return -1


def _sizes(graph: Graph, dims: Sequence[int]) -> dict[str, int]:
    names = {"in": dims[0], "out": dims[1]}
    for name, size in graph.sizes.items():
        if name in names:
            raise UsageError(f"the size {name!r} is given twice")
        names[name] = _positive(f"the size {name!r}", size, names)
    return names


def _chain(graph: Graph, kind: str, dims: Sequence[int], names: dict[str, int]) -> dict[str, FittedNode]:
    given = {"x": dims[0]}
    nodes: dict[str, FittedNode] = {}
    for node in graph.nodes:
        if node.name in given:
            raise UsageError(f"the node {node.name!r} is there twice")
        if node.input not in given:
            raise UsageError(f"the node {node.name!r} takes {node.input!r}, which is not before it")
        if (node.op, kind) in (("linear", "Conv2d"), ("conv2d", "Linear")):
            raise UsageError(f"the node {node.name!r} is a {node.op}, which does not work at a {kind}")
        nodes[node.name] = _fit_node(node, given[node.input], dims, names)
        given[node.name] = nodes[node.name].out_size
    if graph.output not in nodes:
        raise UsageError(f"its output {graph.output!r} is no node")
    return nodes


def _fit_node(
    node: LinearNode | Conv2dNode | GeluNode, in_size: int, dims: Sequence[int], names: dict[str, int]
) -> FittedNode:
    if isinstance(node, GeluNode):
        return FittedNode(node, in_size, in_size)
    out_size = _positive(f"the output of node {node.name!r}", node.out, names)
    if isinstance(node, LinearNode):
        return FittedNode(node, in_size, out_size)
    groups = _positive(f"the groups of node {node.name!r}", node.groups, names)
    if in_size % groups or out_size % groups:
        raise UsageError(f"{groups} groups of node {node.name!r} do not divide its {in_size} and {out_size} channels")
    kernel = (dims[2], dims[3]) if node.geometry == "site" else (1, 1)
    return FittedNode(node, in_size, out_size, groups, kernel)


def _positive(what: str, size: Size, names: dict[str, int]) -> int:
    number = value_of(size, names)
    if number < 1:
        raise UsageError(f"{what} is {number}; it must be at least 1")
    return number
