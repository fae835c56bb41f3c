"""The Avro schemas of events: found in ``schemas/*.avsc``, or read back from what a log stored beside a record."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from fastavro import parse_schema
from fastavro.schema import SchemaParseException, fingerprint, load_schema, to_parsing_canonical_form
from fastavro.types import Schema as AvroSchema

from esper.errors import DecodeError, EsperError


@dataclass(frozen=True, slots=True)
class Schema:
    """A record's schema.

    ``fingerprint`` is the SHA-256 (hex) of its Parsing Canonical Form, ``json`` the whole schema with every
    named type inlined, so that a foreign reader needs nothing else, and ``parsed`` what fastavro wants.
    """

    name: str
    fingerprint: str
    json: str = field(repr=False, compare=False)
    parsed: AvroSchema = field(repr=False, compare=False)


UNKNOWN = Schema("", "", "", {})
"""Stands for the schema of a record whose writer's schema cannot be had."""


@cache
def schemas_dir() -> Path:
    """The folder of the .avsc files: in an installed wheel ``esper/schemas``, in a checkout ``schemas/``."""
    package = Path(__file__).resolve().parents[2]
    for folder in (package / "schemas", package.parent / "schemas"):
        if (folder / "esper.Envelope.avsc").is_file():
            return folder
    raise EsperError(f"{package}: the event schemas are missing; install esper-training again")


def name_of(record_class: type) -> str:
    """The full Avro name of a class: ``esper.runs.RunPaused`` for ``esper.events.runs.RunPaused``."""
    namespace = record_class.__module__.replace("esper.events", "esper").removesuffix(".envelope")
    return f"{namespace}.{record_class.__name__}"


@cache
def schema_of(content_class: type) -> Schema:
    """The schema of the record that carries content of this class: envelope, content's fields, measured."""
    return schema_named(name_of(content_class))


@cache
def schema_named(full_name: str) -> Schema:
    """Our schema of this full name; raises DecodeError if we have none."""
    path = schemas_dir() / f"{full_name}.avsc"
    if path not in _files():
        raise unknown(full_name)
    return _schema(load_schema(str(path)))


@lru_cache(maxsize=1024)
def schema_from_json(text: str) -> Schema:
    """The schema that ``text`` holds, such as a log's copy of a writer's schema; raises DecodeError."""
    try:
        return _schema(parse_schema(json.loads(text)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SchemaParseException) as error:
        raise DecodeError(f"{text[:60]!r} is not an Avro record schema ({error}); the log is damaged") from error


def unknown(name: str) -> DecodeError:
    """The error for a type of record that this version has not heard of."""
    return DecodeError(
        f"{name}: this version of Esper knows no such event; it may have been written by a newer version, so upgrade"
    )


@cache
def _files() -> frozenset[Path]:
    return frozenset(schemas_dir().glob("*.avsc"))


def _schema(parsed: AvroSchema) -> Schema:
    if not isinstance(parsed, dict) or parsed["type"] != "record":
        raise ValueError("it is no record")
    # Sorted, since fastavro's order differs from process to process, and a registry compares text.
    text = json.dumps(_without_hints(parsed), separators=(",", ":"), sort_keys=True)
    digest = fingerprint(to_parsing_canonical_form(parsed), "SHA-256")
    return Schema(parsed["name"], digest, text, parsed)


def _without_hints(parsed: dict[str, Any]) -> dict[str, Any]:
    """``parsed`` without fastavro's marks (which hold the named types a second time)."""
    return {key: value for key, value in parsed.items() if not key.startswith("__")}
