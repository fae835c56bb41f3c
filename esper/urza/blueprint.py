"""What a blueprint is: a graph of whitelisted operators with symbolic sizes, per kind of site, as JSON.

A seed runs beside its site's module: its graph maps the module's input ``x`` to an effect with the shape of the
module's output. Node sizes are inferred along the graph; a node states only how many features or channels it gives.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainValidator, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from esper.errors import UsageError
from esper.events.assets import BlueprintRegistered
from esper.events.encoding.codec import canonical_json
from esper.kasmina.kinds import KINDS
from esper.plugins import Plugins, T
from esper.urza.operators import OPERATORS, Node, Operator, Part
from esper.urza.sizes import Name, Size

_LONGEST = 64 * 1024  # bytes of a definition


def known(registry: Plugins[T], name: Any) -> T:
    """The one of that name, for a validator: what there is instead is an error of the text that is read."""
    try:
        return registry[str(name)]
    except UsageError as error:
        raise _wrong(str(error)) from error


def _wrong(reason: str) -> PydanticCustomError:
    return PydanticCustomError("wrong", "{reason}", {"reason": reason})


def operator_of(part: Any) -> Operator:
    """The operator of a node or layer in JSON."""
    return known(OPERATORS, part.get("op") if isinstance(part, dict) else None)


def _node(value: Any) -> Node:
    return operator_of(value).node.model_validate(value)


def _kind(name: str) -> str:
    return known(KINDS, name).name


KindName = Annotated[str, AfterValidator(_kind)]


class Graph(Part):
    """Nodes in the order they are computed; ``input`` is ``x`` or an earlier node. ``sizes`` may use ``in``, ``out``
    and the sizes before them."""

    sizes: dict[Name, Size] = Field(max_length=32)
    nodes: tuple[Annotated[Node, PlainValidator(_node)], ...] = Field(min_length=1, max_length=32)
    output: Name

    @model_validator(mode="after")
    def _wired(self) -> Graph:
        """Each input is ``x`` or a node before it, each name is there once, and the output is a node."""
        given = {"x"}
        for node in self.nodes:
            if node.name in given:
                raise _wrong(f"the node {node.name!r} is there twice")
            for source in node.sources:
                if source not in given:
                    raise _wrong(f"the node {node.name!r} takes {source!r}, which is not before it")
            given.add(node.name)
        if self.output not in given - {"x"}:
            raise _wrong(f"its output {self.output!r} is no node")
        return self


class Definition(Part):
    """A blueprint's whole content. ``parents`` are ids of the blueprints it was made from."""

    name: Name
    version: int = Field(strict=True, ge=1)
    tags: tuple[str, ...]
    parents: tuple[str, ...]
    graphs: dict[KindName, Graph] = Field(min_length=1)


@lru_cache(maxsize=1024)
def read_definition(text: str) -> Definition:
    """The definition in the JSON ``text``; raises UsageError with the first thing that is wrong."""
    if len(text.encode()) > _LONGEST:
        raise UsageError(f"the blueprint's definition is too long; {_LONGEST} bytes are allowed")
    try:
        return Definition.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the text"
        raise UsageError(f"the blueprint's definition is wrong at {place[:200]}: {first['msg']}") from error


def blueprint_id(name: str, definition: str) -> str:
    """``name@`` and the first 12 hex digits of the SHA-256 of the canonical JSON ``definition``."""
    return f"{name}@{hashlib.sha256(definition.encode()).hexdigest()[:12]}"


def registration(text: str) -> BlueprintRegistered:
    """The event content that registers the blueprint in the JSON ``text``; raises UsageError."""
    definition = read_definition(text)
    raw: dict[str, Any] = json.loads(text)
    canonical = canonical_json(raw)
    return BlueprintRegistered(
        blueprint=blueprint_id(definition.name, canonical),
        name=definition.name,
        version=definition.version,
        definition=canonical,
        kinds=tuple(sorted(definition.graphs)),
        tags=definition.tags,
        parents=definition.parents,
    )


def checked_definition(blueprint: BlueprintRegistered) -> Definition:
    """The definition of a registered ``blueprint``; raises UsageError if it is wrong or not the one of its id."""
    if blueprint.blueprint != blueprint_id(blueprint.name, blueprint.definition):
        raise UsageError(f"the definition of blueprint {blueprint.blueprint} is not the one that its id names")
    return read_definition(blueprint.definition)
