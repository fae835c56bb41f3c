"""What every adapter checks before it writes or reads."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from esper.errors import RecordTooLarge, SequenceGap, UsageError
from esper.events.runs import AlertRaised
from esper.events.signals import CommandIssued
from esper.log.checks import check_signal, check_sizes, following, start_offset
from esper.log.partitions import partition_of
from esper.log.port import MAX_BYTES, Position, Record
from esper.log.records import run_record, signal_record

NOW = datetime(2026, 11, 22, tzinfo=UTC)
PAUSE = CommandIssued(command="pause", seed=None, issuer="me", nonce="1", reason="")
SIGNAL = signal_record("run", PAUSE, writer="me", time=NOW)


def alert(sequence: int, *, epoch: int = 3, run_id: str = "run") -> Record:
    content = AlertRaised(step=1, kind="test", detail="", value=None)
    return run_record(run_id, content, epoch=epoch, sequence=sequence, writer="test", time=NOW)


def sized(size: int) -> Record:
    """A record whose key, value and headers have ``size`` bytes together."""
    return replace(SIGNAL, key="kü", headers=(("name", b"value"), ("n", b"")), value=b"x" * (size - 3 - 9 - 1))


def test_key_value_and_headers_count_and_the_largest_is_allowed() -> None:
    check_sizes([sized(MAX_BYTES), sized(100)])
    with pytest.raises(RecordTooLarge) as raised:
        check_sizes([sized(100), sized(MAX_BYTES + 1)])
    assert str(raised.value) == (
        "esper.signals: a esper.signals.CommandIssued of kü has 8,388,609 bytes, but no log takes more than 8,388,608; "
        "nothing was written; make what it describes smaller"
    )


def test_a_runs_events_follow_on_and_other_records_between_them_do_not_count() -> None:
    assert following([alert(5), SIGNAL, alert(6)], "run", 3, 4) == 6
    assert following([SIGNAL], "run", 3, 4) == 4
    assert following([], "run", 3, 4) == 4


@pytest.mark.parametrize(
    "wrong", [alert(6), alert(4), alert(5, epoch=2), alert(5, epoch=4), alert(5, run_id="other")], ids=str
)
def test_an_event_of_another_number_epoch_or_run_does_not_follow(wrong: Record) -> None:
    with pytest.raises(SequenceGap) as raised:
        following([wrong], "run", 3, 4)
    assert str(raised.value) == (
        f"run run: event 3/5 comes next, but was given {wrong.epoch}/{wrong.sequence} of run {wrong.key}; number a "
        "run's events (epoch/sequence) without gaps"
    )


def test_a_copys_events_have_the_epochs_that_they_had() -> None:
    assert following([alert(1, epoch=1), alert(2, epoch=7)], "run", 8, 0, copied=7) == 2
    for epoch in (0, 8):
        with pytest.raises(SequenceGap, match=f"event 1 to 7/1 comes next, but was given {epoch}/1 of run run"):
            following([alert(1, epoch=epoch)], "run", 8, 0, copied=7)


def test_a_runs_events_are_no_signals() -> None:
    check_signal(SIGNAL)
    with pytest.raises(UsageError, match=r"^esper\.runs is written by a run's trainer alone; use open_writer, or send"):
        check_signal(alert(1))
    with pytest.raises(RecordTooLarge):
        check_signal(sized(MAX_BYTES + 1))


def test_reading_starts_behind_a_position_in_the_keys_own_partition() -> None:
    own = partition_of("run")
    assert start_offset("esper.runs", "run", None) == start_offset("esper.runs", None, None) == -1
    assert start_offset("esper.runs", "run", Position("esper.runs", own, 41)) == 41
    for elsewhere in (Position("esper.signals", own, 41), Position("esper.runs", (own + 1) % 12, 41)):
        with pytest.raises(UsageError) as raised:
            start_offset("esper.runs", "run", elsewhere)
        assert str(raised.value) == f"{elsewhere} is not in the partition of run: esper.runs/{own}"
    with pytest.raises(UsageError, match=r"^after esper\.runs/0:1: name a key too"):
        start_offset("esper.runs", None, Position("esper.runs", 0, 1))
