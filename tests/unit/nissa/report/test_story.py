"""The story of a run in words."""

from __future__ import annotations

import pytest

from esper.nissa.report.story import story, ticks
from tests.support.runs.reporting import full


def test_the_story_in_words():
    told = story("run", full())
    assert told.headline == "The network grew: it kept one of three seeds."
    assert "Of three seeds, one became part of the network and two did not help" in told.summary
    assert "The network is 30.0\u00a0% larger now." in told.summary
    assert told.summary.endswith("its loss is 0.01 higher without fc1#2, as their audits measured.")
    assert told.warnings == ("The run failed: fc1",)
    assert [attempt.again for attempt in told.attempts] == ["40 steps run again later", "", ""]
    assert [attempt.title for attempt in told.attempts][1] == "Resumed from a checkpoint within 1.5\u00a0s"


@pytest.mark.parametrize(("steps", "last"), [(0, 0), (1, 1), (6, 6), (7, 6), (3360, 3000), (10**9, 10**9)])
def test_ticks_are_few_and_round(steps, last):
    found = ticks(steps)
    assert len(found) <= 7
    assert (found[0], found[-1][0]) == ((0, 0.0), last)
