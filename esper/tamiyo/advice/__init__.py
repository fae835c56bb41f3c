"""What a run's log says about how to go on: findings, each with its numbers and the change that answers it.

Pure functions over the folded run. What would not follow from the run's numbers is not said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from esper.tamiyo.advice.course import Course, course, course_of
from esper.tamiyo.advice.finding import Finding
from esper.tamiyo.advice.growth import growth
from esper.tamiyo.advice.seeds import seeds
from esper.tamiyo.run.state import RunState

__all__ = ["Course", "Finding", "advise", "course_of"]

INSTEAD = {
    "nothing to gain": {"seeds used up", "sites rest"},  # no more seeds are needed
    "seeds used up": {"no gain so far"},  # which says to go on
    "sites rest": {"no gain so far"},
}
"""By finding, those that it makes pointless."""
RULES: tuple[Callable[[RunState], Iterator[Finding]], ...] = (seeds, growth)


def advise(state: RunState, seen: Course | None = None) -> tuple[Finding, ...]:
    """What to do about a run, the most telling first; none if nothing is to be said. ``seen`` is what its events show
    that the state does not keep (``course_of``)."""
    found = [finding for rule in RULES for finding in rule(state)]
    found += course(state, seen) if seen is not None else ()
    pointless = {name for each in found for name in INSTEAD.get(each.name, ())}
    return tuple(sorted((each for each in found if each.name not in pointless), key=lambda each: each.rank))
