"""However a log loses writers, everything submitted is on it once and in order, and the journal knows what is."""

from __future__ import annotations

import random
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.events import Event
from esper.events.runs import RunResumed, RunStarted
from esper.events.topics import RUNS
from esper.log.ordering import in_order
from esper.settings import LogSettings
from esper.tamiyo.run.fold import fold
from esper.tamiyo.run.state import RunState
from esper.tolaria.journal import journal as journal_module
from esper.tolaria.journal.journal import Journal
from esper.tolaria.journal.reopening import Writers, is_on_the_log, renumbered
from tests.support.logs.faulty import Fault, FaultyLog
from tests.support.runs.histories import ENVIRONMENT, RUN, simulate

FAULTS: list[Fault] = [None, "away", "lost before", "lost after"]


@pytest.fixture(scope="module", autouse=True)
def _impatient() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_module, "FIRST_PAUSE", 0.0001)
        patch.setattr(journal_module, "LONGEST_PAUSE", 0.001)
        yield


def chunks(contents: list[Any], sizes: list[int]) -> list[list[Any]]:
    """``contents`` in transactions of these sizes, over and over; the first holds at least RunStarted's checkpoint."""
    parts, place = [contents[:2]], 2
    while place < len(contents):
        size = sizes[len(parts) % len(sizes)]
        parts.append(contents[place : place + size])
        place += size
    return parts


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    faults=st.lists(st.sampled_from(FAULTS), max_size=60),
    opening=st.lists(st.sampled_from([None, "away"]), max_size=20),
    waits=st.lists(st.booleans(), min_size=1, max_size=5),
)
def test_whatever_the_log_does_every_event_is_on_it_once_and_in_order(
    seed: int, sizes: list[int], faults: list[Fault], opening: list[Fault], waits: list[bool]
) -> None:
    contents = [event.content for event in simulate(random.Random(seed), 6, end=seed % 2 == 0).events]
    with tempfile.TemporaryDirectory() as folder:
        log = FaultyLog(Path(folder))
        writers = Writers(log, RUN, ENVIRONMENT)
        journal = Journal(writers, writers.open(), RunState(RUN), LogSettings(patience=60.0, buffer=3))
        log.faults, log.opening = iter(faults), iter(opening)
        followed: list[int] = []
        for number, part in enumerate(chunks(contents, sizes)):
            transaction = journal.transaction()
            for content in part:
                transaction.add(content)
            transaction.then = lambda number=number: followed.append(number)  # type: ignore[misc]
            (journal.commit if waits[number % len(waits)] else journal.submit)(transaction)
        journal.wait()
        events = [event for _, event in in_order(log.read(RUNS, key=RUN))]
        ours = [event for event in events if event.envelope.writer.startswith("trainer/")]
        assert ours == events
        inserted = new_epochs(events)
        assert all(isinstance(event.content, RunResumed) for event in inserted)
        assert [event.content for event in events if event not in inserted] == contents
        assert followed == [*range(number + 1)]
        assert journal.state == fold(RunState(RUN), events)
        assert journal.committed == len(events)
        journal.close()
        log.close()


def new_epochs(events: list[Event]) -> list[Event]:
    """The first event of each epoch but the one that began the run."""
    first = [after for before, after in pairwise(events) if before.envelope.epoch != after.envelope.epoch]
    assert isinstance(events[0].content, RunStarted)
    return first


@given(st.integers(0, 10**6), st.integers(1, 50), st.integers(0, 1000), st.data())
@settings(max_examples=30, deadline=None)
def test_a_transaction_is_known_again_exactly_if_it_is_there(
    seed: int, epoch: int, sequence: int, data: st.DataObject
) -> None:
    from tests.unit.tolaria.journal.test_reopening import record

    records = [record(place, step=seed) for place in range(1, 8)]
    moved = renumbered(records, epoch, sequence)
    assert [(each.epoch, each.sequence) for each in moved] == [(epoch, sequence + n) for n in range(1, 8)]
    assert renumbered(moved, 1, 0) == records
    more = data.draw(st.integers(0, 3))
    assert is_on_the_log(moved[:4], moved[: 4 + more])
    assert not is_on_the_log(moved[4:], moved[:4])
