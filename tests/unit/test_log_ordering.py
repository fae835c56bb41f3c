from __future__ import annotations

from datetime import UTC, datetime

import pytest

from esper.errors import SequenceConflict, SequenceGap
from esper.events.assets import BlueprintRegistered
from esper.events.runs import AlertRaised
from esper.events.signals import CommandIssued
from esper.log.ordering import in_order, once
from esper.log.port import Entry, Position, Record
from esper.log.records import asset_record, run_record, signal_record

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def entry(epoch: int, sequence: int, detail: str = "") -> Entry:
    content = AlertRaised(step=1, kind="test", detail=detail, value=None)
    return at(run_record("run", content, epoch=epoch, sequence=sequence, writer="test", time=NOW))


def at(record: Record) -> Entry:
    return Entry(Position(record.topic, 0, 0), NOW, record)


def places(*entries: Entry, **start: int) -> list[tuple[int | None, int | None]]:
    return [(event.envelope.epoch, event.envelope.sequence) for _, event in in_order(entries, **start)]


def test_events_follow_on_across_epochs() -> None:
    assert places(entry(1, 1), entry(1, 2), entry(3, 3), entry(3, 4)) == [(1, 1), (1, 2), (3, 3), (3, 4)]


def test_a_known_id_is_dropped() -> None:
    assert places(entry(1, 1), entry(1, 2), entry(1, 1), entry(2, 3), entry(1, 2)) == [(1, 1), (1, 2), (2, 3)]


def test_an_older_epoch_is_ignored() -> None:
    assert places(entry(1, 1), entry(2, 2), entry(1, 2), entry(1, 3), entry(1, 9), entry(2, 3)) == [
        (1, 1),
        (2, 2),
        (2, 3),
    ]


@pytest.mark.parametrize("epoch", [1, 2])
def test_reading_stops_on_a_gap(epoch: int) -> None:
    with pytest.raises(SequenceGap, match="event 2 is missing"):
        places(entry(1, 1), entry(epoch, 3))
    with pytest.raises(SequenceGap, match="event 1 is missing"):
        places(entry(epoch, 2))


@pytest.mark.parametrize("epoch", [1, 2])
def test_the_same_id_with_other_bytes_is_an_error_and_never_dropped(epoch: int) -> None:
    begun = entry(1, 1), entry(1, 2), entry(epoch, 3)
    with pytest.raises(SequenceConflict):
        places(*begun, entry(1, 2, "another"))


def test_a_newer_epoch_cannot_take_a_place_that_is_taken() -> None:
    with pytest.raises(SequenceConflict):
        places(entry(1, 1), entry(1, 2), entry(2, 2))


def test_reading_goes_on_behind_what_is_known() -> None:
    assert places(entry(2, 4), entry(2, 5), entry(1, 9), entry(2, 6), epoch=2, sequence=5) == [(2, 6)]
    with pytest.raises(SequenceGap):
        places(entry(2, 7), epoch=2, sequence=5)


def test_a_record_without_its_place_is_an_error() -> None:
    content = CommandIssued(command="pause", seed=None, issuer="i", nonce="1", reason="")
    with pytest.raises(SequenceGap, match="no epoch"):
        list(in_order([at(signal_record("run", content, writer="test", time=NOW))]))


def test_an_asset_counts_once_whoever_wrote_it() -> None:
    content = BlueprintRegistered(
        blueprint="b@1", name="b", version=1, definition="{}", kinds=("Linear",), tags=(), parents=()
    )
    written = [at(asset_record(content, writer=writer, time=NOW)) for writer in ("one", "two")]
    assert written[0].record.value != written[1].record.value
    assert [found for found, _ in once(written)] == written[:1]
    assert written[0].record.key == "b@1"
