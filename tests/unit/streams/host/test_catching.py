"""When a worker's views have caught up with what it was given to read."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from streams.host import safe
from streams.host.catching import CatchingUp
from streams.host.safe import OffsetsInFlight

ONE, TWO = TP("esper.runs", 0), TP("esper.runs", 1)
Case = tuple[CatchingUp, OffsetsInFlight]


@pytest.fixture
def case() -> Case:
    progress = OffsetsInFlight()
    return CatchingUp(progress.committable), progress


def records(*offsets: int) -> list[Any]:
    return [SimpleNamespace(offset=offset) for offset in offsets]


def begun(progress: OffsetsInFlight, offset: int) -> Any:
    return progress.begin(SimpleNamespace(tp=ONE, offset=offset))  # type: ignore[arg-type]


def test_nothing_has_caught_up_before_partitions_are_assigned(case: Case) -> None:
    catching, _ = case
    assert not catching.done
    catching.begin([])
    assert catching.done


def test_a_partition_with_nothing_new_has_caught_up_once_its_end_is_known(case: Case) -> None:
    catching, _ = case
    catching.begin([ONE, TWO])
    catching.look({}, {ONE: (0, 0), TWO: None}.get)
    assert not catching.done
    assert catching.left == 1
    catching.look({}, {ONE: (0, 0), TWO: (7, 7)}.get)
    assert catching.done


def test_the_last_record_has_to_be_done_and_a_marker_behind_it_read(case: Case) -> None:
    """Records at 3 and 4, a transaction's marker at 5."""
    catching, progress = case
    catching.begin([ONE])
    catching.look({ONE: records(3, 4)}, {ONE: (5, 6)}.get)
    first, last = begun(progress, 3), begun(progress, 4)
    first.release()
    catching.look({}, {ONE: (6, 6)}.get)
    assert not catching.done
    last.release()
    catching.look({}, {ONE: (6, 6)}.get)
    assert catching.done


def test_a_record_that_was_read_and_not_begun_is_not_done(case: Case) -> None:
    catching, progress = case
    catching.begin([ONE])
    catching.look({ONE: records(0)}, {ONE: (1, 1)}.get)
    assert not catching.done
    begun(progress, 0).release()
    catching.look({}, {ONE: (1, 1)}.get)
    assert catching.done


def test_what_comes_later_does_not_put_the_end_off(case: Case) -> None:
    catching, progress = case
    catching.begin([ONE])
    catching.look({ONE: records(0)}, {ONE: (1, 1)}.get)
    begun(progress, 0).release()
    begun(progress, 1)  # being worked on
    catching.look({ONE: records(1)}, {ONE: (2, 9)}.get)
    assert catching.done


def test_another_assignment_begins_anew(case: Case) -> None:
    catching, _ = case
    catching.begin([ONE])
    catching.look({}, {ONE: (5, 5)}.get)
    catching.begin([ONE])
    assert not catching.done
    catching.look({}, {ONE: (5, 8)}.get)
    assert not catching.done


def test_sources_are_not_read_before_a_rebalance_is_over_and_changelogs_are(case: Case) -> None:
    """Faust throws away what it fetches of a source until then."""
    catching, _ = case
    changelog = TP("changelog", 0)
    asked: list[set[TP]] = []

    async def getmany(wanted: set[TP], timeout: float) -> dict[TP, Any]:
        asked.append(wanted)
        return {}

    consumer: Any = object.__new__(safe._Consumer)
    consumer.app = SimpleNamespace(
        catching_up=catching, tables=SimpleNamespace(changelog_topics={changelog.topic}, changelog_queue=None)
    )
    consumer._thread = SimpleNamespace(getmany=getmany)
    for consumer.open in (False, True):
        asyncio.run(consumer._getmany({ONE, changelog}, 1.0))
    assert asked == [{changelog}, {ONE, changelog}]
    consumer.open = False
    assert asyncio.run(consumer._getmany({ONE}, 1.0)) == {}
    assert len(asked) == 2
