"""Events as records: the envelope around a content, its Avro body, and CloudEvents 1.0 attributes as headers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from urllib.parse import quote
from uuid import UUID

from esper.errors import DecodeError, UsageError
from esper.events import AssetContent, Content, Envelope, Event, RunContent, SignalContent, TelemetryContent
from esper.events.encoding.codec import content_digest, decode, encode, encode_run_event, maker
from esper.events.encoding.schemas import name_of, schema_of
from esper.events.ids import LONGEST_ISSUER, asset_id, run_event_text, signal_id, telemetry_id
from esper.events.topics import ASSETS, RUNS, SIGNALS, TELEMETRY
from esper.log.headers import Headers
from esper.log.port import Entry, Record


def run_record(
    run_id: str,
    content: RunContent,
    *,
    epoch: int,
    sequence: int,
    writer: str,
    time: datetime,
    causes: tuple[UUID, ...] = (),
) -> Record:
    """The record of a run's event number ``sequence``, for ``Writer.append``. ``time`` has a zone."""
    identity = run_event_text(run_id, epoch, sequence)
    value = encode_run_event(identity, time, writer, epoch, sequence, causes, content)
    content_class: type = type(content)
    headers = _headers(_constant(RUNS, run_id, content_class, writer), identity, time, causes)
    record: Record = _record(RUNS, run_id, schema_of(content_class), value, headers, epoch, sequence)
    return record


def signal_record(
    run_id: str, content: SignalContent, *, writer: str, time: datetime, causes: tuple[UUID, ...] = ()
) -> Record:
    """The record of a signal to a run, for ``Log.signal``; its issuer and nonce make it the same signal again.

    Raises UsageError where one of these is longer than a run takes.
    """
    if max(len(content.issuer), len(content.nonce)) > LONGEST_ISSUER:
        raise UsageError(f"an issuer and a nonce have {LONGEST_ISSUER} characters at most; choose shorter ones")
    identity = signal_id(run_id, content.issuer, content.nonce)
    return record_of(SIGNALS, run_id, Envelope(id=identity, time=time, writer=writer, causes=causes), content)


def asset_record(content: AssetContent, *, writer: str, time: datetime) -> Record:
    """The record of an asset's event, under its blueprint's id; the same content has the same id."""
    identity = asset_id(name_of(type(content)), content_digest(content))
    return record_of(ASSETS, content.blueprint, Envelope(id=identity, time=time, writer=writer), content)


def telemetry_record(
    run_id: str, content: TelemetryContent, *, epoch: int, number: int, time: datetime, writer: str = "trainer"
) -> Record:
    """The record of the ``number``-th batch of measurements by the run's writer of ``epoch``, for ``Log.signal``."""
    envelope = Envelope(id=telemetry_id(run_id, epoch, number), time=time, writer=writer, epoch=epoch)
    return record_of(TELEMETRY, run_id, envelope, content)


def event_of(entry: Entry) -> Event:
    """The event in ``entry``; raises DecodeError."""
    if entry.error is not None:
        raise DecodeError(entry.error)
    return decode(entry.record.schema, entry.record.value)


def record_of(topic: str, key: str, envelope: Envelope, content: Content) -> Record:
    """The record of ``content`` with its headers."""
    content_class: type = type(content)
    identity = str(envelope.id).encode()
    headers = _headers(_constant(topic, key, content_class, envelope.writer), identity, envelope.time, envelope.causes)
    value = encode(Event(envelope, content))
    return Record(topic, key, schema_of(content_class), value, headers, envelope.epoch, envelope.sequence)


def _headers(constant: Headers, identity: bytes, time: datetime, causes: tuple[UUID, ...]) -> Headers:
    own = ("ce_id", identity), ("ce_time", _iso(time))
    return (*constant, *own, ("causation_id", str(causes[0]).encode())) if causes else constant + own


def _iso(time: datetime) -> bytes:
    """``time.isoformat()``, in half its time for one in UTC: every event has one."""
    if time.tzinfo is not UTC:
        return time.isoformat().encode()
    since = time - _EPOCH
    fraction = f".{since.microseconds:06}" if since.microseconds else ""
    return f"{_second(since.days, since.seconds)}{fraction}+00:00".encode()


@lru_cache(maxsize=256)
def _second(days: int, seconds: int) -> str:
    return (_EPOCH + timedelta(days, seconds)).replace(tzinfo=None).isoformat()


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_record = maker(Record)


@lru_cache(maxsize=1024)
def _constant(topic: str, key: str, content_class: type, writer: str) -> Headers:
    """The headers that all records of a class, under a key and by a writer, have in common.

    CloudEvents wants a URI reference that names the maker as the source.
    """
    headers: Headers = (
        ("ce_specversion", b"1.0"),
        ("ce_type", name_of(content_class).encode()),
        ("ce_source", f"/esper/{quote(writer, safe='')}".encode()),
        ("ce_subject", key.encode()),
    )
    return headers if topic == ASSETS else (*headers, ("correlation_id", key.encode()))
