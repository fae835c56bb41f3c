"""Every event survives encoding, whatever its fields hold, and the bytes are those that fastavro writes."""

from __future__ import annotations

import dataclasses
import io
import json
from datetime import UTC, datetime, timedelta
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints
from uuid import UUID

import fastavro
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper.errors import DecodeError
from esper.events import Content, Envelope, Event
from esper.events.encoding.codec import canonical_json, content_bytes, decode, encode, to_json
from esper.events.encoding.schemas import name_of, schema_of
from esper.events.runs import RunPaused

CONTENTS: tuple[type, ...] = get_args(Content)
PRIMITIVES: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(),
    str: st.text(max_size=8),
    bool: st.booleans(),
    bytes: st.binary(max_size=8),
    UUID: st.uuids(),
    datetime: st.datetimes(timezones=st.just(UTC)).map(lambda time: time.replace(fold=0)),
}


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Values of an annotation."""
    if hint in PRIMITIVES:
        return PRIMITIVES[hint]
    if dataclasses.is_dataclass(hint):
        return records_of(hint)  # type: ignore[arg-type]
    args = get_args(hint)
    if get_origin(hint) is tuple:
        return st.lists(values_of(args[0]), max_size=3).map(tuple)
    if get_origin(hint) is dict:
        return st.dictionaries(values_of(args[0]), values_of(args[1]), max_size=3)
    assert args[1] is NoneType
    return st.none() | values_of(args[0])


def records_of(record_class: type) -> st.SearchStrategy[Any]:
    return st.builds(record_class, **{name: values_of(hint) for name, hint in get_type_hints(record_class).items()})


def events_of(content_class: type) -> st.SearchStrategy[Event]:
    return st.builds(Event, records_of(Envelope), records_of(content_class))


each_event = pytest.mark.parametrize("content_class", CONTENTS, ids=name_of)
few = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def by_fastavro(event: Event) -> bytes:
    """The body that fastavro makes of ``event`` by way of dicts."""
    record = plain(event.content) | {"envelope": plain(event.envelope)}
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, schema_of(type(event.content)).parsed, record)
    return stream.getvalue()


def plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return (value - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return [plain(item) for item in value] if isinstance(value, tuple) else value


@each_event
@few
@given(data=st.data())
def test_the_bytes_are_those_that_fastavro_writes(content_class: type, data: st.DataObject) -> None:
    event = data.draw(events_of(content_class))
    assert encode(event) == by_fastavro(event)


@pytest.mark.parametrize("number", [0, -1, 63, 64, 4095, 4096, -(1 << 63), (1 << 63) - 1])
def test_longs_of_every_length_are_written(number: int) -> None:
    envelope = Envelope(id=UUID(int=1), time=datetime(1969, 1, 1, tzinfo=UTC), writer="w" * 5000, sequence=number)
    event = Event(envelope, RunPaused(step=number, reason="r" * 4096))
    assert encode(event) == by_fastavro(event)


@each_event
@few
@given(data=st.data())
def test_an_event_is_decoded_as_it_was_encoded(content_class: type, data: st.DataObject) -> None:
    event = data.draw(events_of(content_class))
    body = encode(event)
    again = decode(schema_of(content_class), body)
    # repr tells apart what == does not (tuple and list are unequal, but -0.0 == 0.0 and 1 == 1.0) and lets NaN be NaN.
    assert repr(again) == repr(event)
    assert encode(again) == body


@each_event
@few
@given(data=st.data())
def test_an_event_as_json_is_strict_and_canonical(content_class: type, data: st.DataObject) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    event = data.draw(events_of(content_class))
    fields = to_json(event)
    text = json.dumps(fields, allow_nan=False)
    assert json.loads(text, parse_constant=refuse) == fields
    assert list(fields) == list(get_type_hints(content_class))
    shuffled = dict(reversed(fields.items()))
    assert canonical_json(shuffled) == canonical_json(event.content)


@each_event
@few
@given(data=st.data())
def test_content_bytes_depend_on_the_content_alone(content_class: type, data: st.DataObject) -> None:
    event, other = data.draw(events_of(content_class)), data.draw(events_of(content_class))
    again: Any = decode(schema_of(content_class), encode(event)).content
    assert content_bytes(again) == content_bytes(event.content)
    content: Any = event.content
    measured = dataclasses.replace(content, measured=other.content.measured)
    assert content_bytes(measured) == content_bytes(event.content)
    without = dataclasses.replace(content, measured=None)
    another: Any = dataclasses.replace(other.content, measured=None)
    same_bytes = content_bytes(event.content) == content_bytes(other.content)
    assert same_bytes == (canonical_json(without) == canonical_json(another))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_bytes_are_either_an_event_or_a_decode_error(data: st.DataObject) -> None:
    content_class = data.draw(st.sampled_from(CONTENTS))
    body = bytearray(encode(data.draw(events_of(content_class))))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        content = decode(schema_of(content_class), bytes(body)).content
    except DecodeError as error:
        message = str(error)
    else:
        message = name_of(type(content))
    assert message.startswith(name_of(content_class))
