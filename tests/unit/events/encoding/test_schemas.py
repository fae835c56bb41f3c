"""The classes in esper.events and the files in schemas/ say the same."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints
from uuid import UUID, uuid4

import fastavro
import pytest

from esper.errors import DecodeError
from esper.events import Content, Envelope, Event, RunContent, runs
from esper.events.encoding.codec import encode
from esper.events.encoding.schemas import name_of, schema_from_json, schema_named, schema_of, schemas_dir

CONTENTS: tuple[type, ...] = get_args(Content)
PRIMITIVES: dict[Any, Any] = {
    int: "long",
    float: "double",
    str: "string",
    bool: "boolean",
    bytes: "bytes",
    UUID: {"type": "string", "logicalType": "uuid"},
    datetime: {"type": "long", "logicalType": "timestamp-micros"},
}


def avro_type(hint: Any) -> Any:
    """The Avro type that a field with this annotation has to have."""
    if hint in PRIMITIVES:
        return PRIMITIVES[hint]
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return name_of(hint)
    args = get_args(hint)
    if get_origin(hint) is tuple:
        assert args[1] is Ellipsis
        return {"type": "array", "items": avro_type(args[0])}
    if get_origin(hint) is dict:
        assert args[0] is str
        return {"type": "map", "values": avro_type(args[1])}
    assert len(args) == 2
    assert args[1] is NoneType
    return ["null", avro_type(args[0])]


def records_in(hint: Any) -> set[type]:
    """The record classes that ``hint`` names, nested ones included."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return {hint}.union(*(records_in(inner) for inner in get_type_hints(hint).values()))
    return set().union(*(records_in(arg) for arg in get_args(hint)))


RECORDS = sorted({Envelope}.union(*(records_in(content) for content in CONTENTS)), key=name_of)


def avsc(record_class: type) -> dict[str, Any]:
    text = (schemas_dir() / f"{name_of(record_class)}.avsc").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


@pytest.mark.parametrize("record_class", RECORDS, ids=name_of)
def test_a_class_and_its_schema_have_the_same_fields_in_the_same_order(record_class: type) -> None:
    hints = get_type_hints(record_class)
    expected = [(field.name, avro_type(hints[field.name])) for field in dataclasses.fields(record_class)]
    if record_class in CONTENTS:
        expected.insert(0, ("envelope", "esper.Envelope"))
        assert expected[-1] == ("measured", ["null", {"type": "map", "values": "double"}])
    if record_class in get_args(RunContent):
        expected.append(("link", ["null", "bytes"]))
    assert [(field["name"], field["type"]) for field in avsc(record_class)["fields"]] == expected


@pytest.mark.parametrize("record_class", RECORDS, ids=name_of)
def test_every_nullable_field_defaults_to_null_and_no_default_differs_from_the_class(record_class: type) -> None:
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(record_class)
        if field.default is not dataclasses.MISSING
    }
    for field in avsc(record_class)["fields"]:
        if isinstance(field["type"], list):
            assert field["default"] is None
            assert defaults.get(field["name"]) is None
        else:
            default = defaults.get(field["name"], "none")
            assert field.get("default", "none") == (list(default) if isinstance(default, tuple) else default)


@pytest.mark.parametrize("record_class", RECORDS, ids=name_of)
def test_every_record_and_field_says_what_it_is(record_class: type) -> None:
    schema = avsc(record_class)
    assert f"{schema['namespace']}.{schema['name']}" == name_of(record_class)
    assert schema["doc"].strip()
    assert [field["name"] for field in schema["fields"] if not field.get("doc", "").strip()] == []


def test_every_schema_has_a_class() -> None:
    of_the_index = {"esper.RunIndex.avsc"}  # a hint of the log on Kafka, and no event
    classes = {f"{name_of(record)}.avsc" for record in RECORDS}
    assert {path.name for path in schemas_dir().glob("*.avsc")} == classes | of_the_index


def test_every_event_class_is_in_the_union_of_contents() -> None:
    from esper.events import assets, deadletter, exclusions, signals, telemetry

    defined = {
        value
        for module in (runs, signals, assets, deadletter, exclusions, telemetry)
        for value in vars(module).values()
        if isinstance(value, type) and "measured" in getattr(value, "__annotations__", ())
    }
    assert defined == set(CONTENTS)


@pytest.mark.parametrize("content_class", CONTENTS, ids=name_of)
def test_a_schema_read_back_from_its_json_is_the_same(content_class: type) -> None:
    schema = schema_of(content_class)
    again = schema_from_json(schema.json)
    assert again == schema
    assert again.json == schema.json
    assert schema_named(schema.name) == schema


def test_the_json_of_a_schema_is_the_same_in_every_process() -> None:
    program = (
        "from esper.events import runs\n"
        "from esper.events.encoding.schemas import schema_of\n"
        "print(schema_of(runs.RunPaused).json)"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": salt},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for salt in ("0", "1", "2")
    }
    assert len(printed) == 1


def test_a_foreign_reader_needs_nothing_but_the_stored_json() -> None:
    content = runs.RunPaused(step=3, reason="asked", measured={"seconds": 0.5})
    event = Event(
        Envelope(id=uuid4(), time=datetime(2024, 5, 1, tzinfo=UTC), writer="me", epoch=1, sequence=2), content
    )
    schema = fastavro.parse_schema(json.loads(schema_of(runs.RunPaused).json))
    record: Any = fastavro.schemaless_reader(io.BytesIO(encode(event)), schema, None)
    assert record == {
        "envelope": {**dataclasses.asdict(event.envelope), "causes": []},
        "step": 3,
        "reason": "asked",
        "measured": {"seconds": 0.5},
        "link": None,
    }


def test_a_fingerprint_is_the_sha256_of_the_parsing_canonical_form() -> None:
    schema = schema_from_json(
        '{"doc": "d", "type": "record", "namespace": "x", "name": "Y", '
        '"fields": [{"default": 0, "name": "a", "type": {"type": "long"}}]}'
    )
    canonical = '{"name":"x.Y","type":"record","fields":[{"name":"a","type":"long"}]}'
    assert schema.name == "x.Y"
    assert schema.fingerprint == hashlib.sha256(canonical.encode()).hexdigest()


def test_different_schemas_have_different_fingerprints() -> None:
    assert len({schema_of(content).fingerprint for content in CONTENTS}) == len(CONTENTS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        '"string"',
        '{"type": "map", "values": "long"}',
        '{"type": "record", "fields": []}',
        '{"type": "record", "name": "x", "fields": [{"name": "a", "type": "y.Unknown"}]}',
    ],
)
def test_text_that_is_no_record_schema_is_a_decode_error(text: str) -> None:
    with pytest.raises(DecodeError, match="not an Avro record schema"):
        schema_from_json(text)


@pytest.mark.parametrize("name", ["esper.runs.Nothing", "../schemas/esper.Envelope", "/etc/passwd"])
def test_a_name_without_a_schema_is_a_decode_error(name: str) -> None:
    with pytest.raises(DecodeError, match="newer version"):
        schema_named(name)


@pytest.mark.parametrize("inside", ["schemas", "esper/schemas"], ids=["checkout", "wheel"])
def test_the_schemas_are_found_in_a_checkout_and_in_a_wheel(tmp_path: Path, inside: str) -> None:
    root = schemas_dir().parent
    shutil.copytree(root / "esper/events", tmp_path / "esper/events")
    for name in ("__init__.py", "errors.py", "version.py"):
        shutil.copy(root / "esper" / name, tmp_path / "esper" / name)
    script = "from esper.events.encoding.schemas import schemas_dir; print(schemas_dir())"
    command = [sys.executable, "-c", script]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    missing = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "the event schemas are missing" in missing.stderr
    shutil.copytree(root / "schemas", tmp_path / inside)
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()) == tmp_path / inside
