"""Fits a blueprint to a site's kind and shapes: every size a number, every parameter counted. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from esper.errors import UsageError
from esper.events.assets import BlueprintRegistered
from esper.kasmina.kinds import KINDS, Geometry
from esper.urza.blueprint import Definition, Graph, checked_definition
from esper.urza.operators import FitTarget, Fitted, Node
from esper.urza.sizes import positive

PARAMETER_LIMIT = 50_000_000


def fit(definition: Definition, kind: str, dims: Sequence[int], geometry: Geometry | None = None) -> tuple[Fitted, ...]:
    """The nodes of the blueprint's graph for a site of ``kind``, ``dims`` (as in a SiteTable) and ``geometry``.

    Without a geometry, on which no number of parameters depends, it is the kind's default. Raises UsageError saying
    why it does not fit: another kind of site, a size that is not defined, is below 1 or too large, a wrong input, an
    output of another size than the site's.
    """
    graph = definition.graphs.get(kind)
    if graph is None:
        raise UsageError(f"it is for {', '.join(sorted(definition.graphs))}, not for {kind}")
    site = KINDS[kind]
    if len(dims) != len(site.dims):
        raise UsageError(f"a {kind} has {len(site.dims)} dims, not {len(dims)}")
    if min(dims) < 1:
        raise UsageError(f"the site's dims are {list(dims)}; each must be at least 1")
    named = dict(zip(site.dims, dims, strict=True))
    nodes = _chain(graph, FitTarget(site, named, geometry or site.geometry(), _sizes(graph, dims)))
    if nodes[graph.output].size != dims[1]:
        raise UsageError(f"its output has size {nodes[graph.output].size}, the site's {dims[1]}")
    fitted = tuple(nodes.values())
    parameters = sum(node.layer.parameters for node in fitted)
    if not 1 <= parameters <= PARAMETER_LIMIT:
        raise UsageError(f"it would have {parameters} parameters; 1 to {PARAMETER_LIMIT} are allowed")
    return fitted


def parameter_count(blueprint: BlueprintRegistered, kind: str, dims: Sequence[int]) -> int:
    """How many parameters ``blueprint`` adds at a site of ``kind`` and ``dims``; -1 where it does not fit."""
    try:
        return sum(node.layer.parameters for node in fit(checked_definition(blueprint), kind, dims))
    except UsageError:
        return -1


def _sizes(graph: Graph, dims: Sequence[int]) -> dict[str, int]:
    names = {"in": dims[0], "out": dims[1]}
    for name, size in graph.sizes.items():
        if name in names:
            raise UsageError(f"the size {name!r} is given twice")
        names[name] = positive(f"the size {name!r}", size, names)
    return names


def _chain(graph: Graph, target: FitTarget) -> dict[str, Fitted]:
    given = {"x": target.dims["in"]}
    nodes: dict[str, Fitted] = {}
    for node in graph.nodes:
        nodes[node.name] = _fitted(node, tuple(given[source] for source in node.sources), target)
        given[node.name] = nodes[node.name].size
    return nodes


def _fitted(node: Node, sizes: tuple[int, ...], target: FitTarget) -> Fitted:
    if node.layouts is not None and target.kind.layout not in node.layouts:
        raise UsageError(f"the node {node.name!r} is a {node.op}, which does not work at a {target.kind.name}")
    try:
        return node.fit(sizes, target)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"the node {node.name!r} cannot be made here: {where}: {first['msg']}") from error
