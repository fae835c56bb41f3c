"""Confluent's wire format: a zero byte, the schema's id in four, the Avro body."""

from __future__ import annotations

from struct import Struct

_HEAD = Struct(">BI")
LENGTH = _HEAD.size


def head(schema_id: int) -> bytes:
    """What goes in front of a body of the schema with this id."""
    return _HEAD.pack(0, schema_id)


def schema_id(value: bytes | None) -> int | None:
    """The schema id of a framed ``value``; None if it is not framed."""
    if value is None or len(value) < LENGTH or value[0] != 0:
        return None
    return int.from_bytes(value[1:LENGTH], "big")
