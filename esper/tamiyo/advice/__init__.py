"""What a run's log says about how to go on: findings, each with its numbers and the change that answers it.

Pure functions over the folded run. What would not follow from the run's numbers is not said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from esper.tamiyo.advice.finding import Finding
from esper.tamiyo.advice.growth import growth
from esper.tamiyo.advice.seeds import seeds
from esper.tamiyo.advice.time import Times, overhead, times
from esper.tamiyo.state import RunState

__all__ = ["Finding", "Times", "advise", "times"]

RULES: tuple[Callable[[RunState], Iterator[Finding]], ...] = (growth, seeds)


def advise(state: RunState, measured: Times | None = None) -> tuple[Finding, ...]:
    """What to do about a run, the most telling first; none if nothing is to be said. ``measured`` is where its time
    went (``times``), which the state does not have."""
    found = [finding for rule in RULES for finding in rule(state)]
    found += overhead(state, measured) if measured is not None else ()
    return tuple(sorted(found, key=lambda each: each.rank))
