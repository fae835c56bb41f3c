"""Events to Avro and back, and the canonical bytes and JSON that digests are made of.

Converters are built once per class from its annotations. What fastavro gives as we want it is not touched.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass, make_dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from io import BytesIO
from operator import attrgetter, itemgetter
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints
from uuid import UUID

from fastavro import schemaless_reader, schemaless_writer
from fastavro.read import SchemaResolutionError

from esper.errors import DecodeError
from esper.events import Content, Envelope, Event, RunContent
from esper.events.encoding.avro import (
    optional_writer,
    record_writer,
    write_bytes,
    write_long,
    write_string,
    write_time,
    write_uuid,
)
from esper.events.encoding.schemas import Schema, name_of, schema_of, unknown

Convert = Callable[..., Any]

_CLASSES: dict[str, type] = {name_of(content): content for content in get_args(Content)}
_CHAINED = frozenset(get_args(RunContent))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_BLANK: dict[str, Any] = {"id": UUID(int=0), "time": 0, "writer": "", "epoch": None, "sequence": None, "causes": []}
_BAD_BYTES = (EOFError, ValueError, LookupError, TypeError, OverflowError, MemoryError, SchemaResolutionError)


def encode(event: Event) -> bytes:
    """The Avro body of ``event``, by our schema of its content's class."""
    content_class: type = type(event.content)
    body = _envelope(event.envelope) + record_writer(content_class)(event.content)
    return body + _link(event.link) if content_class in _CHAINED else body


def encode_run_event(
    identity: bytes, time: datetime, writer: str, epoch: int, sequence: int, causes: tuple[UUID, ...], content: Content
) -> bytes:
    """What ``encode`` makes of a run's event without a link; ``identity`` is the id as text."""
    content_class: type = type(content)
    tail = b"\x00" if not causes else write_long(len(causes)) + b"".join(map(write_uuid, causes)) + b"\x00"
    return b"".join(
        (
            b"\x48",
            identity,
            write_time(time),
            write_string(writer),
            b"\x02",
            write_long(epoch),
            b"\x02",
            write_long(sequence),
            tail,
            record_writer(content_class)(content),
            b"\x00",
        )
    )


def with_link(body: bytes, link: bytes) -> bytes:
    """``body``, of a run's event by our schema and without a link, with ``link``: it is the last field."""
    return body[:-1] + b"\x02" + write_bytes(link)


def decode(schema: Schema, body: bytes) -> Event:
    """The event in ``body``, which was written by ``schema``; read by our own schema of that name.

    Raises DecodeError if we do not know the type, or the bytes are not such a record.
    """
    content_class = _CLASSES.get(schema.name)
    if content_class is None:
        raise unknown(schema.name)
    ours = schema_of(content_class)
    stream = BytesIO(body)
    try:
        if schema.fingerprint == ours.fingerprint:
            record: Any = schemaless_reader(stream, ours.parsed, None)
        else:
            record = schemaless_reader(stream, schema.parsed, ours.parsed)
        envelope, content = _loader(Envelope)(record["envelope"]), _loader(content_class)(record)
        event: Event = _event(envelope, content, record.get("link"))
    except _BAD_BYTES as error:
        raise DecodeError(
            f"{schema.name}: the record cannot be read ({type(error).__name__}: {error}); "
            "it is damaged, or was written by a newer version"
        ) from error
    if stream.tell() != len(body):
        raise DecodeError(f"{schema.name}: the record has {len(body) - stream.tell()} bytes too many; it is damaged")
    return event


def content_bytes(content: Content) -> bytes:
    """What ``content`` is, in bytes: its schema's fingerprint (32 bytes) and the Avro body with a zero envelope,
    without ``measured`` and link, map entries sorted by key. Equal in every process."""
    content_class: type = type(content)
    schema = schema_of(content_class)
    record = _sorted(_dumper(content_class)(content))
    return bytes.fromhex(schema.fingerprint) + _written(
        schema, record | {"envelope": _BLANK, "measured": None, "link": None}
    )


def content_digest(content: Content) -> str:
    """SHA-256 of ``content_bytes``, in hex."""
    return hashlib.sha256(content_bytes(content)).hexdigest()


def canonical_json(value: Any) -> str:
    """``value`` as JSON with sorted keys, no spaces and ASCII only; see ``jsonable`` for what it may hold."""
    return json.dumps(jsonable(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def to_json(event: Event) -> dict[str, Any]:
    """The fields of the event's content, ``measured`` included, as plain JSON values."""
    plain: dict[str, Any] = jsonable(event.content)
    return plain


def jsonable(value: Any) -> Any:
    """``value`` as strict JSON has it: NaN, Infinity and -Infinity as those strings, bytes in hex, ids and times
    as strings, dataclasses as objects, tuples as arrays. Raises TypeError for anything else."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else "NaN" if math.isnan(value) else f"{'-' * (value < 0)}Infinity"
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"a key of {value!r:.60} is not a string")
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _written(schema: Schema, record: dict[str, Any]) -> bytes:
    stream = BytesIO()
    schemaless_writer(stream, schema.parsed, record)
    return stream.getvalue()


def _sorted(value: Any) -> Any:
    """``value`` with every map in order of its keys and one NaN (its sign depends on the processor)."""
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_sorted(item) for item in value]
    return math.nan if isinstance(value, float) and math.isnan(value) else value


@cache
def _loader(record_class: type) -> Convert:
    """What makes a ``record_class`` of fastavro's dict."""
    hints = get_type_hints(record_class)
    steps = [(place, convert) for place, hint in enumerate(hints.values()) if (convert := _loading(hint))]
    take, make = itemgetter(*hints), maker(record_class)

    def load(record: dict[str, Any]) -> Any:
        values = list(take(record))
        for place, convert in steps:
            if (value := values[place]) is not None:
                values[place] = convert(value)
        return make(*values)

    return load


@cache
def _dumper(record_class: type) -> Convert:
    """What makes fastavro's dict of a ``record_class``."""
    hints = get_type_hints(record_class)
    steps = [(name, convert) for name, hint in hints.items() if (convert := _dumping(hint))]
    names, values = tuple(hints), attrgetter(*hints)

    def dump(instance: Any) -> dict[str, Any]:
        record = dict(zip(names, values(instance), strict=True))
        for name, convert in steps:
            if (value := record[name]) is not None:
                record[name] = convert(value)
        return record

    return dump


def maker(record_class: type) -> Convert:
    """What makes a ``record_class`` of its fields' values, in their order.

    A frozen dataclass sets each field through ``object.__setattr__``, which would cost a quarter of all decoding.
    So the values go into a mutable class of the same layout, whose instance then changes its class.
    """
    layout: Any = make_dataclass(record_class.__name__, [field.name for field in fields(record_class)], slots=True)

    def make(*values: Any) -> Any:
        instance = layout(*values)
        instance.__class__ = record_class
        return instance

    return make


_event = maker(Event)
_envelope = record_writer(Envelope)
_link = optional_writer(bytes)


def _loading(hint: Any) -> Convert | None:
    """What turns fastavro's value, not None, into one of type ``hint``; None if it is one already."""
    if is_dataclass(hint):
        return _loader(hint)  # type: ignore[arg-type]
    if get_origin(hint) is tuple:
        item = _loading(get_args(hint)[0])
        return tuple if item is None else lambda values: tuple([item(value) for value in values])
    return _loading(_unless_none(hint)) if isinstance(hint, UnionType) else None


def _dumping(hint: Any) -> Convert | None:
    """What turns a value of type ``hint``, not None, into one that fastavro writes; None if it is one already."""
    if is_dataclass(hint):
        return _dumper(hint)  # type: ignore[arg-type]
    if hint is datetime:
        return lambda time: (time - _EPOCH) // _MICROSECOND
    if get_origin(hint) is tuple:
        item = _dumping(get_args(hint)[0])
        return list if item is None else lambda values: [item(value) for value in values]
    return _dumping(_unless_none(hint)) if isinstance(hint, UnionType) else None


def _unless_none(hint: UnionType) -> Any:
    """X of ``X | None``."""
    (given,) = (arg for arg in get_args(hint) if arg is not NoneType)
    return given
