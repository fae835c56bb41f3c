"""How schemas may change: today's must read all that any past version wrote (BACKWARD_TRANSITIVE). Pure but for files.

``schemas/past/NAME.jsonl`` holds every version of a record type that ever wrote to a log, oldest first, one a line,
with its nested types inlined; the last line is today's. The rules are those of Avro's schema resolution. They are
written out here because a verdict alone does not help: whoever breaks one wants to know the field and the rule.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from esper.events import Content
from esper.events.encoding.schemas import Schema, name_of, schema_from_json, schema_named, schemas_dir

OTHERS = ("esper.RunIndex",)
"""Records that are no events, but are in the log too."""
_WIDER = {
    "int": ("long", "float", "double"),
    "long": ("float", "double"),
    "float": ("double",),
    "string": ("bytes",),
    "bytes": ("string",),
}
_NAMED = ("record", "enum", "fixed")


@dataclass(frozen=True, slots=True)
class Breach:
    """Why a schema cannot read what another wrote: ``field`` is a path such as ``sites.names[]``, ``rule`` is words."""

    field: str
    rule: str

    def __str__(self) -> str:
        return f"field {self.field}: {self.rule}" if self.field else self.rule


def names() -> list[str]:
    """The full names of all record types that are written to a log."""
    return sorted([*(name_of(content) for content in get_args(Content)), *OTHERS])


def topic_of(name: str) -> str:
    """The topic that records of this type are written to."""
    return "esper.run-index" if name == "esper.RunIndex" else name.rpartition(".")[0]


def past(name: str) -> list[Schema]:
    """The versions of a record type that are recorded, oldest first."""
    path = past_file(name)
    return [schema_from_json(line) for line in path.read_text().splitlines()] if path.is_file() else []


def past_file(name: str) -> Path:
    """Where the versions of a record type are recorded; the file need not be there."""
    return schemas_dir() / "past" / f"{name}.jsonl"


def unread(name: str) -> list[str]:
    """What is wrong with a record type, a line each: past versions that it cannot read, or that it is not recorded."""
    today, versions = schema_named(name), past(name)
    wrong = unread_in(name, versions, "in schemas/past")
    if not versions or not same(versions[-1], today):
        when = f"has changed since version {len(versions)} was recorded" if versions else "was never recorded"
        wrong.append(f"{name} {when}; `make schemas` records it in {past_file(name).parent}")
    return wrong


def unread_in(name: str, versions: Sequence[Schema], where: str) -> list[str]:
    """Which of ``versions`` (oldest first, found ``where``) today's schema of that name cannot read, a line each."""
    return [
        f"{name} cannot read what its version {number} {where} wrote: {breach}"
        for number, version in enumerate(versions, 1)
        for breach in breaches(schema_named(name), version)
    ]


def lost() -> list[str]:
    """Recorded types that are no more, so that nothing could read their records, a line each."""
    recorded = {path.stem for path in past_file("").parent.glob("*.jsonl")}
    return [f"{name} is gone, but logs hold its records; keep its schema and class" for name in recorded - {*names()}]


def same(one: Schema, other: Schema) -> bool:
    """Whether two schemas are one but for words: a default counts, a description does not."""
    return bool(_bare(json.loads(one.json)) == _bare(json.loads(other.json)))


def breaches(reader: Schema, writer: Schema) -> list[Breach]:
    """Why ``reader`` cannot read all that ``writer`` may have written; nothing if it can."""
    readers, writers = json.loads(reader.json), json.loads(writer.json)
    return list(_Comparison(_types(readers), _types(writers)).of(readers, writers, ""))


class _Comparison:
    """Two schemas with their named types; a pair of these is compared once, so that a type may hold itself."""

    def __init__(self, readers: dict[str, Any], writers: dict[str, Any]) -> None:
        self._readers, self._writers = readers, writers
        self._seen: set[tuple[str, str]] = set()

    def of(self, reader: Any, writer: Any, where: str) -> Iterator[Breach]:
        reader, writer = _resolved(reader, self._readers), _resolved(writer, self._writers)
        if isinstance(writer, list):
            for branch in writer:
                yield from self.of(reader, branch, where)
        elif isinstance(reader, list):
            yield from self._one_of(reader, writer, where)
        elif reader["type"] != writer["type"]:
            if reader["type"] not in _WIDER.get(writer["type"], ()):
                yield Breach(where, f"{writer['type']} cannot be read as {reader['type']}")
        elif reader.get("logicalType") != writer.get("logicalType"):  # the registry would let it pass
            yield Breach(where, f"{writer.get('logicalType')} cannot be read as {reader.get('logicalType')}")
        elif reader["type"] == "array":
            yield from self.of(reader["items"], writer["items"], f"{where}[]")
        elif reader["type"] == "map":
            yield from self.of(reader["values"], writer["values"], f"{where}{{}}")
        elif reader["type"] in _NAMED:
            yield from self._named(reader, writer, where)

    def _one_of(self, branches: list[Any], writer: dict[str, Any], where: str) -> Iterator[Breach]:
        found = [list(self.of(branch, writer, where)) for branch in branches]
        if [] in found:
            return
        resolved = [_resolved(branch, self._readers) for branch in branches]
        kin = [of for branch, of in zip(resolved, found, strict=True) if branch["type"] == writer["type"]]
        yield from kin[0] if kin else [Breach(where, f"{writer['type']} can no longer be read")]

    def _named(self, reader: dict[str, Any], writer: dict[str, Any], where: str) -> Iterator[Breach]:
        if _short(reader) != _short(writer) and writer["name"] not in reader.get("aliases", ()):
            yield Breach(where, f"{writer['name']} cannot be read as {reader['name']}")
        elif reader["type"] == "fixed":
            if reader["size"] != writer["size"]:
                yield Breach(where, f"{writer['size']} bytes cannot be read as {reader['size']}")
        elif reader["type"] == "enum":
            gone = [each for each in writer["symbols"] if each not in reader["symbols"]]
            if gone and "default" not in reader:
                yield Breach(where, f"{', '.join(gone)} can no longer be read")
        elif (pair := (reader["name"], writer["name"])) not in self._seen:
            self._seen.add(pair)
            yield from self._fields(reader, writer, where)

    def _fields(self, reader: dict[str, Any], writer: dict[str, Any], where: str) -> Iterator[Breach]:
        written = {each["name"]: each for each in writer["fields"]}
        for each in reader["fields"]:
            path = f"{where}.{each['name']}" if where else each["name"]
            known = [name for name in (each["name"], *each.get("aliases", ())) if name in written]
            if known:
                yield from self.of(each["type"], written[known[0]]["type"], path)
            elif "default" not in each:
                yield Breach(path, "it is new and has no default")


def _resolved(schema: Any, types: dict[str, Any]) -> Any:
    """A union as a list, any other type as an object."""
    if isinstance(schema, str):
        return types.get(schema) or {"type": schema}
    if isinstance(schema, dict) and isinstance(schema["type"], dict | list):
        return _resolved(schema["type"], types)
    return schema


def _types(schema: Any) -> dict[str, Any]:
    """The named types that are defined anywhere in ``schema``."""
    if isinstance(schema, list):
        return {name: found for branch in schema for name, found in _types(branch).items()}
    if not isinstance(schema, dict):
        return {}
    inside = [schema.get("items"), schema.get("values"), [field["type"] for field in schema.get("fields", ())]]
    found = _types([schema["type"], *inside] if isinstance(schema["type"], dict | list) else inside)
    return {schema["name"]: schema, **found} if schema["type"] in _NAMED else found


def _short(schema: dict[str, Any]) -> str:
    return str(schema["name"]).rpartition(".")[2]


def _bare(schema: Any) -> Any:
    """``schema`` without descriptions."""
    if isinstance(schema, dict):
        return {key: _bare(value) for key, value in schema.items() if key != "doc"}
    return [_bare(each) for each in schema] if isinstance(schema, list) else schema
