"""What a log counts of a run, against what can be read of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.errors import LogRefused, SequenceConflict, SequenceGap
from esper.events.topics import RUNS
from esper.log import open_log
from esper.log.claims import follow_on, miscounted
from esper.log.ordering import LEAP, Order
from esper.log.port import Counted, Log
from tests.support.logs.records import behind, record_of_event
from tests.support.runs.histories import RUN, History

EVENTS = History().events  # two, by the writer of epoch 1


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """A log with the run's two events."""
    log = open_log(f"sqlite:///{tmp_path / 'log.db'}")
    writer = log.open_writer(RUN)
    writer.append(behind(log, RUN, [record_of_event(event) for event in EVENTS]))
    writer.close()
    yield log
    log.close()


def read(log: Log) -> Order:
    """What has come to the end of the run."""
    order = Order()
    list(order.over(log.read(RUNS, RUN)))
    return order


@pytest.mark.parametrize(("epoch", "sequence", "beyond"), [(1, 2, 0), (1 + LEAP, 2, 0), (1, 9, 9), (1, 2, 9)])
def test_what_can_be_is_right(log: Log, epoch: int, sequence: int, beyond: int) -> None:
    assert miscounted(RUN, Counted(epoch, sequence), read(log), beyond) is None


def test_a_log_that_counts_less_than_is_there_names_the_first_event_too_many(log: Log) -> None:
    order = read(log)
    wrong = miscounted(RUN, Counted(1, 1), order, 0)
    assert isinstance(wrong, SequenceConflict)
    place = order.at(2)
    assert str(wrong) == (
        f"run {RUN}: its writers have written 1 events by the log's count, but 2 are there: either event 2 at {place} "
        f"is no trainer's, then `esper dlq exclude {place} --why TEXT` takes it out, and all that follows; or the "
        "count was changed, then copy the run to a new log"
    )


@pytest.mark.parametrize("epoch", [0, 2 + LEAP])
def test_epochs_that_no_writer_can_have_come_to_are_refused(log: Log, epoch: int) -> None:
    wrong = miscounted(RUN, Counted(epoch, 2), read(log), 0)
    assert isinstance(wrong, LogRefused)
    assert str(wrong) == (
        f"run {RUN}: the log counts {epoch} writers, but its last event is of epoch 1: the count was changed; copy the "
        "run to a new log, which counts anew"
    )


def test_events_that_are_counted_but_nowhere_are_missing(log: Log) -> None:
    wrong = miscounted(RUN, Counted(1, 4), read(log), 3)
    assert isinstance(wrong, SequenceGap)
    assert str(wrong) == (
        f"run {RUN}: event 3 is missing, though the log counts 4; copy the run to a new log from one that has it whole"
    )


class Appended:
    """A writer whose log has counted ``sequence`` events; keeps what it is told to follow."""

    run_id, epoch = RUN, 2

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        self.followed: list[int] = []

    def follow(self, sequence: int) -> None:
        self.followed.append(sequence)


def test_a_writer_goes_on_behind_what_is_there_where_records_that_are_none_of_its_events_were_counted(log: Log) -> None:
    order, writer = read(log), Appended(5)
    with pytest.raises(SequenceGap, match="event 3 is missing, though the log counts 5"):
        follow_on(log, writer, order)  # type: ignore[arg-type]
    assert writer.followed == []
    order.left = 5
    follow_on(log, writer, order)  # type: ignore[arg-type]
    assert writer.followed == [2]


def test_a_writer_whose_count_is_right_is_told_nothing(log: Log) -> None:
    writer = Appended(2)
    follow_on(log, writer, read(log))  # type: ignore[arg-type]
    assert writer.followed == []
