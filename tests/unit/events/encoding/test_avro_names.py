"""The Avro names on logs never change: each that was ever recorded is one that today's code knows."""

from __future__ import annotations

import json
from importlib import import_module
from typing import Any

import pytest

from esper.events.encoding.evolution import OTHERS, names, past
from esper.events.encoding.schemas import name_of, schema_named, schemas_dir

RECORDED = sorted(path.stem for path in (schemas_dir() / "past").glob("*.jsonl"))
ENVELOPE = "esper.Envelope"


def named_types(schema: Any) -> set[str]:
    """The full names of all types that ``schema``, of a log, defines."""
    if isinstance(schema, list):
        return {name for each in schema for name in named_types(each)}
    if not isinstance(schema, dict):
        return set()
    inside = [schema.get(part) for part in ("type", "items", "values")]
    found = named_types([*inside, *(field["type"] for field in schema.get("fields", ()))])
    return found | ({schema["name"]} if "name" in schema else set())


EVER = sorted({each for name in RECORDED for version in past(name) for each in named_types(json.loads(version.json))})
"""All names in all versions, those of nested records included."""


def class_called(name: str) -> type:
    """The class that today's events of an Avro name are of."""
    module, _, last = name.rpartition(".")
    found: type = getattr(import_module(module.replace("esper", "esper.events", 1)), last)
    return found


def test_the_names_of_records_are_recorded() -> None:
    assert sorted(names()) == RECORDED
    assert {*RECORDED, ENVELOPE, "esper.runs.Alternative", "esper.deadletter.Header"} <= set(EVER)


@pytest.mark.parametrize("name", RECORDED)
def test_each_version_of_a_record_bears_the_name_of_its_file(name: str) -> None:
    assert {version.name for version in past(name)} == {name}


@pytest.mark.parametrize("name", EVER)
def test_a_name_that_was_ever_on_a_log_is_todays_schema_and_class(name: str) -> None:
    assert schema_named(name).name == name
    if name not in OTHERS:
        assert name_of(class_called(name)) == name


@pytest.mark.parametrize("name", RECORDED)
def test_no_record_of_a_name_has_lost_a_nested_name(name: str) -> None:
    today = named_types(json.loads(schema_named(name).json))
    assert {each for version in past(name) for each in named_types(json.loads(version.json))} - today == set()
