"""A run's record is made without its envelope as an object, and comes out as if it had been."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from esper.events import Envelope, Event
from esper.events.encoding.codec import encode
from esper.events.ids import run_event_id
from esper.events.runs import RunPaused
from esper.log.records import run_record

ZONES = st.sampled_from([UTC, timezone(timedelta(hours=-7)), timezone(timedelta(minutes=330))])
TIMES = st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1), timezones=ZONES) | st.integers(
    -(10**9), 4 * 10**9
).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))


@given(
    run_id=st.text(max_size=8),
    writer=st.text(max_size=80),
    time=TIMES,
    epoch=st.integers(1, 1 << 40),
    sequence=st.integers(1, 1 << 40),
    causes=st.lists(st.uuids(), max_size=3).map(tuple),
)
def test_a_runs_record_has_the_bytes_and_the_headers_of_its_event(
    run_id: str, writer: str, time: datetime, epoch: int, sequence: int, causes: tuple[UUID, ...]
) -> None:
    content = RunPaused(step=3, reason="ä")
    record = run_record(run_id, content, epoch=epoch, sequence=sequence, writer=writer, time=time, causes=causes)
    identity = run_event_id(run_id, epoch, sequence)
    envelope = Envelope(id=identity, time=time, writer=writer, epoch=epoch, sequence=sequence, causes=causes)
    assert record.value == encode(Event(envelope, content))
    headers = dict(record.headers)
    assert headers["ce_id"].decode() == str(identity)
    assert headers["ce_time"].decode() == time.isoformat()
    assert headers.get("causation_id", b"").decode() == (str(causes[0]) if causes else "")
    assert (record.epoch, record.sequence) == (epoch, sequence)
