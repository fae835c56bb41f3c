"""Confluent's wire format."""

from __future__ import annotations

import pytest

from esper.log.kafka.frames import LENGTH, head, schema_id


@pytest.mark.parametrize(("number", "bytes_of_it"), [(1, b"\0\0\0\0\1"), (0x01020304, b"\0\1\2\3\4")])
def test_a_frame_is_a_zero_byte_and_the_schemas_id_in_four(number: int, bytes_of_it: bytes) -> None:
    assert head(number) == bytes_of_it
    assert len(bytes_of_it) == LENGTH
    assert schema_id(bytes_of_it + b"body") == number
    assert schema_id(bytes_of_it) == number


@pytest.mark.parametrize("value", [None, b"", b"\0\0\0\0", b"\1\0\0\0\1body"])
def test_what_is_not_framed_has_no_schema_id(value: bytes | None) -> None:
    assert schema_id(value) is None
