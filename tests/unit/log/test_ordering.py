"""The readers' rule: what counts of a run, what is passed over, and where nobody can go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from esper.errors import SequenceConflict, SequenceGap
from esper.events.assets import BlueprintRegistered
from esper.events.encoding.schemas import UNKNOWN
from esper.events.runs import AlertRaised, RunFailed, RunResumed
from esper.events.signals import CommandIssued
from esper.log.chain import Mark, chained, digest, first_link
from esper.log.ordering import LEAP, Excluded, Order, in_order, once
from esper.log.port import Entry, Position, Record
from esper.log.records import asset_record, run_record, signal_record
from tests.support.runs.histories import ENVIRONMENT, RUN, History

NOW = datetime(2026, 11, 22, tzinfo=UTC)
STARTED = History().events[0].content
RESUMED = RunResumed(checkpoint=0, inexact=False, environment=ENVIRONMENT, notes=())
FAILED = RunFailed(step=1, cause="a forger's")


def alert(detail: str = "") -> AlertRaised:
    return AlertRaised(step=1, kind="test", detail=detail, value=None)


def record(epoch: int, sequence: int, content: Any = None) -> Record:
    """Event ``sequence``: RunStarted, RunResumed where ``content`` says so, else an alert."""
    content = content or (STARTED if sequence == 1 else alert())
    return run_record(RUN, content, epoch=epoch, sequence=sequence, writer="test", time=NOW)


def run(*places: tuple[int, int]) -> list[Record]:
    """A run as its trainers write it: epochs and sequence numbers."""
    epochs = [0, *(epoch for epoch, _ in places)]
    contents = [
        RESUMED if after > before and place > 1 else None
        for before, (after, place) in zip(epochs, places, strict=False)
    ]
    written = [record(*place, content) for place, content in zip(places, contents, strict=True)]
    return chained(written, first_link(RUN))[0]


def follow(record: Record, before: Record) -> Record:
    """``record`` with the right link, as a forger who can read makes it."""
    return chained([record], digest(before))[0][0]


def lying(records: Sequence[Record]) -> list[Entry]:
    return [Entry(Position(each.topic, 0, offset), NOW, each) for offset, each in enumerate(records)]


def places(*records: Record, **rule: Any) -> list[tuple[int | None, int | None]]:
    return [(event.envelope.epoch, event.envelope.sequence) for _, event in in_order(lying(records), **rule)]


def taken(*records: Record, **rule: Any) -> tuple[list[int | None], list[str]]:
    """The events that count, and what was said of those that were passed over."""
    told: list[str] = []
    found = places(*records, unreadable=lambda entry, error: told.append(f"{entry.position}: {error}"), **rule)
    return [sequence for _, sequence in found], told


A_RUN = run((1, 1), (1, 2), (3, 3), (3, 4))
UNCHAINED = [record(1, 1), record(1, 2), record(3, 3, RESUMED), record(3, 4)]


@pytest.mark.parametrize("written", [A_RUN, UNCHAINED], ids=["chained", "before there was a chain"])
def test_events_follow_on_across_epochs(written: list[Record]) -> None:
    assert places(*written) == [(1, 1), (1, 2), (3, 3), (3, 4)]


def test_an_event_that_comes_again_is_dropped() -> None:
    one, two, three, four = A_RUN
    assert places(one, two, one, three, two, three, four) == [(1, 1), (1, 2), (3, 3), (3, 4)]


@pytest.mark.parametrize("epoch", [1, 2])
def test_reading_stops_on_a_gap(epoch: int) -> None:
    with pytest.raises(SequenceGap, match=r"event 2 is missing at esper.runs/0:1"):
        places(record(1, 1), record(epoch, 3, RESUMED))
    with pytest.raises(SequenceGap, match="event 1 is missing"):
        places(record(epoch, 2))


# Forks


def test_two_events_in_one_place_are_a_fork_and_both_positions_are_named() -> None:
    for epoch, content in ((1, alert("another")), (1, FAILED), (4, RESUMED)):
        with pytest.raises(SequenceConflict, match=r"forked: event 2 is there at esper.runs/0:1 .* esper.runs/0:4;"):
            places(*A_RUN, follow(record(epoch, 2, content), A_RUN[0]))


def test_an_event_of_an_older_epoch_behind_the_beginning_of_a_later_one_is_a_fork() -> None:
    one, two, *_ = A_RUN
    forged = follow(record(2, 3, RESUMED), two)
    true = follow(record(1, 3), two)
    with pytest.raises(SequenceConflict, match=r"event 3 is there at esper.runs/0:2 and, another, at esper.runs/0:3"):
        places(one, two, forged, true)
    with pytest.raises(SequenceConflict, match=r"event 4 of epoch 1 at esper.runs/0:3 .* epoch 2 at esper.runs/0:2"):
        places(one, two, forged, follow(record(1, 4), true))


def test_a_fork_is_seen_by_who_reads_from_its_middle_on() -> None:
    one, two, three, four = A_RUN
    mark = Mark(1, 2, digest(two), 1)
    assert places(three, four, after=mark) == [(3, 3), (3, 4)]
    with pytest.raises(SequenceConflict, match="event 2 is there before"):
        places(three, follow(record(1, 2), one), after=mark)
    with pytest.raises(SequenceGap):
        places(four, after=mark)


# What is none of the run's events


@pytest.mark.parametrize("epoch", [4, LEAP, 2**40, 2**63 - 1])
@pytest.mark.parametrize("place", [2, 4, 5])
def test_an_event_of_a_later_epoch_that_does_not_begin_it_is_passed_over_and_told(epoch: int, place: int) -> None:
    forged = follow(record(epoch, place, FAILED), A_RUN[-1])
    more = follow(record(3, 5), A_RUN[-1])
    events, [told] = taken(*A_RUN, forged, more)
    assert events == [1, 2, 3, 4, 5]
    assert told.startswith("esper.runs/0:4: ")
    assert "RunFailed cannot begin epoch" in told or "no writer's of the run" in told


@pytest.mark.parametrize("epoch", [4 + LEAP, 2**40, 2**63 - 1])
def test_no_writer_has_an_epoch_that_no_other_could_come_after(epoch: int) -> None:
    events, [told] = taken(*A_RUN, follow(record(epoch, 5, RESUMED), A_RUN[-1]), follow(record(3, 5), A_RUN[-1]))
    assert (events, f"epoch {epoch} is no writer's" in told) == ([1, 2, 3, 4, 5], True)


def test_a_run_begins_once() -> None:
    for epoch in (3, 4):
        events, [told] = taken(*A_RUN, follow(record(epoch, 5, STARTED), A_RUN[-1]))
        assert events == [1, 2, 3, 4]
        assert "RunStarted as event 5" in told


def test_a_record_that_is_no_event_of_a_run_is_passed_over_and_told() -> None:
    command = CommandIssued(command="pause", seed=None, issuer="i", nonce="1", reason="")
    signal = signal_record(RUN, command, writer="test", time=NOW)
    bare = Record("esper.runs", RUN, UNKNOWN, b"hello")
    events, told = taken(A_RUN[0], signal, A_RUN[1], bare)
    assert events == [1, 2]
    assert "without a place" in told[0]
    assert len(told) == 2


def test_the_highest_place_that_is_claimed_by_what_does_not_count_is_known() -> None:
    order = Order(unreadable=lambda entry, error: None)
    assert len(list(order.over(lying([*A_RUN, record(9, 5, FAILED)])))) == 4
    assert (order.mark.sequence, order.claimed) == (4, 5)


# The chain


@pytest.mark.parametrize("changed", [1, 2, 3])
def test_no_event_but_the_last_can_be_another_unseen(changed: int) -> None:
    written = list(A_RUN)
    before = written[changed - 1]
    content = alert("changed") if changed != 3 else replace(RESUMED, notes=("changed",))
    epoch, place = before.epoch or 0, before.sequence or 0
    forged = record(epoch, place, STARTED if place == 1 else content)
    if place == 1:
        forged = replace(forged, value=forged.value[:60] + bytes([forged.value[60] ^ 1]) + forged.value[61:])
    written[changed - 1] = (
        follow(forged, written[changed - 2]) if place > 1 else chained([forged], first_link(RUN))[0][0]
    )
    assert written[changed - 1] != before
    with pytest.raises(SequenceConflict, match=f"event {changed + 1} .* does not follow on what lies before it"):
        places(*written)


def test_the_first_event_names_its_run() -> None:
    with pytest.raises(SequenceConflict, match="event 1 "):
        places(chained([record(1, 1)], first_link("another"))[0][0])


def test_an_event_without_a_link_after_one_that_has_it_is_a_break() -> None:
    with pytest.raises(SequenceConflict, match=r"event 5 at esper.runs/0:4 has no link,.* an older Esper"):
        places(*A_RUN, record(4, 5, RESUMED))


def test_a_run_of_before_is_chained_from_where_a_newer_version_went_on() -> None:
    resumed = follow(record(4, 5, RESUMED), UNCHAINED[-1])
    order = Order()
    assert len(list(order.over(lying([*UNCHAINED, resumed, follow(record(4, 6), resumed)])))) == 6
    assert (order.mark.chained, order.mark.sequence) == (5, 6)
    with pytest.raises(SequenceConflict, match="event 5"):
        places(*UNCHAINED[:3], record(3, 4, alert("another")), resumed)


def test_the_mark_is_where_another_reader_goes_on() -> None:
    order = Order()
    list(order.over(lying(A_RUN[:3])))
    assert order.mark == Mark(3, 3, digest(A_RUN[2]), 1, Position("esper.runs", 0, 2))
    assert places(A_RUN[3], after=order.mark) == [(3, 4)]
    with pytest.raises(SequenceConflict, match="does not follow"):
        places(A_RUN[3], after=replace(order.mark, link=bytes(32)))


# What operators take out


def out(*records: tuple[int, Record]) -> Excluded:
    return {(RUN, Position("esper.runs", 0, offset), digest(each)) for offset, each in records}


def test_what_is_excluded_does_not_count_nor_does_what_follows_on_it() -> None:
    one, two, three, four = A_RUN
    forged = follow(record(2, 3, RESUMED), two)
    more = follow(record(2, 4), forged)
    assert places(one, two, forged, three, more, four, excluded=out((2, forged))) == places(*A_RUN)
    assert places(one, two, forged, three, more, four, excluded=out((3, three))) == [(1, 1), (1, 2), (2, 3), (2, 4)]


def test_only_the_record_that_was_meant_is_excluded() -> None:
    one, two, three, four = A_RUN
    assert places(*A_RUN, excluded=out((2, two), (9, three))) == places(*A_RUN)
    with pytest.raises(SequenceConflict):
        places(one, two, three, follow(record(1, 3), two), four, excluded=out((3, four)))


def test_what_follows_on_an_excluded_event_goes_with_it_even_where_that_was_damaged() -> None:
    one, two, three, four = A_RUN
    damaged = replace(two, value=two.value[:-1] + bytes([two.value[-1] ^ 1]))
    resumed = follow(record(4, 2, RESUMED), one)
    order = Order(excluded=out((1, damaged)))
    taken = [event.envelope.sequence for _, event in order.over(lying([one, damaged, three, four, resumed]))]
    assert (taken, order.left, order.taken_out) == ([1, 2], 4, 3)


def test_a_repeat_that_is_excluded_takes_nothing_with_it() -> None:
    one, two, three, four = A_RUN
    assert places(one, two, two, three, four, excluded=out((2, two))) == places(*A_RUN)


def test_under_the_key_of_another_run_nothing_is_excluded() -> None:
    elsewhere = {("another", position, own) for _, position, own in out((1, A_RUN[1]))}
    assert places(*A_RUN, excluded=elsewhere) == places(*A_RUN)


def test_a_repeat_of_an_event_from_before_is_known_to_who_can_look_there() -> None:
    one, two, three, four = A_RUN
    before = Order()
    list(before.over(lying([one, two])))
    with pytest.raises(SequenceConflict, match="event 1 is there before"):
        places(one, three, four, after=before.mark)
    order = Order(after=before.mark, earlier=lambda: before)
    entries = lying([one, two, one, three, two, four])[2:]
    assert [event.envelope.sequence for _, event in order.over(entries)] == [3, 4]
    other = follow(record(1, 2, RESUMED), one)
    with pytest.raises(SequenceConflict, match=r"event 2 is there at esper.runs/0:1 and, another, at esper.runs/0:9"):
        order.take(replace(entries[0], record=other, position=Position("esper.runs", 0, 9)))


def test_a_record_that_cannot_be_read_can_be_excluded_as_well() -> None:
    bare = Record("esper.runs", RUN, UNKNOWN, b"hello", epoch=3, sequence=5)
    order = Order(excluded=out((4, bare)), unreadable=lambda entry, error: pytest.fail("it was excluded"))
    assert len(list(order.over(lying([*A_RUN, bare])))) == 4
    assert order.claimed == 5


# Assets


def test_an_asset_counts_once_whoever_wrote_it() -> None:
    content = BlueprintRegistered(
        blueprint="b@1", name="b", version=1, definition="{}", kinds=("Linear",), tags=(), parents=()
    )
    written = lying([asset_record(content, writer=writer, time=NOW) for writer in ("one", "two")])
    assert written[0].record.value != written[1].record.value
    assert [found for found, _ in once(written)] == written[:1]
    assert written[0].record.key == "b@1"
