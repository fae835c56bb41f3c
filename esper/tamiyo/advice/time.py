"""Where a run's time went: what Esper takes between steps, and measurements that did not reach the log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from esper.events import Event
from esper.events.runs import BoundaryReached, RunCompleted, RunResumed
from esper.tamiyo.advice.finding import Finding
from esper.tamiyo.state import RunState, settings_of

BUDGET = 0.10  # share of the time that is worth a word
ENOUGH = 10  # boundaries from which on something is said
DROPPED = "telemetry_dropped"
"""In RunCompleted.measured: measurements that the log was too slow for."""


@dataclass(frozen=True, slots=True)
class Times:
    """``seconds`` between the first boundary and the last one of each resume, ``esper`` of them in Esper between steps,
    over ``boundaries``; ``dropped`` measurements."""

    seconds: float
    esper: float
    boundaries: int
    dropped: int


def times(events: Iterable[Event]) -> Times:
    """Of a run's events."""
    seconds, esper, boundaries, dropped = 0.0, 0.0, 0, 0
    last = None
    for event in events:
        content, now = event.content, event.envelope.time
        measured = getattr(content, "measured", None) or {}
        if isinstance(content, BoundaryReached):
            if last is not None:
                seconds += (now - last).total_seconds()
                esper += measured.get("seconds", 0.0)
                boundaries += 1
            last = now
        elif isinstance(content, RunResumed):
            last = None
        elif isinstance(content, RunCompleted):
            dropped += int(measured.get(DROPPED, 0.0))
    return Times(seconds, esper, boundaries, dropped)


def overhead(state: RunState, measured: Times) -> Iterator[Finding]:
    """What costs time without need."""
    share = measured.esper / measured.seconds if measured.seconds > 0 else 0.0
    every = settings_of(state).boundary.steps
    if measured.boundaries >= ENOUGH and share > BUDGET:
        numbers = {"share": share, "seconds": measured.esper, "boundary.steps": every}
        what = f"Esper took {share:.0%} of the time between steps ({measured.esper:.1f} of {measured.seconds:.1f} s)"
        change = f"set boundary.steps={2 * every}, so that digests and gates come half as often"
        yield Finding("overhead", what, change, numbers, rank=2)
    if measured.dropped:
        what = f"{measured.dropped:,} measurements of telemetry were dropped, for the log was too slow for them"
        change = f"set telemetry.every={2 * settings_of(state).telemetry.every or 1}, or telemetry.buffer higher"
        yield Finding("telemetry dropped", what, change, {"dropped": measured.dropped}, rank=2)
