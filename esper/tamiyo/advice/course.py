"""What a run's events show that its state does not keep: where its time went, and what its gate data are like."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import fmean

from esper.events import Event
from esper.events.runs import BoundaryReached, RunCompleted, RunResumed
from esper.tamiyo.advice.finding import Finding
from esper.tamiyo.run.state import RunState, settings_of

BUDGET = 0.10  # share of the time that is worth a word
WAITING = 0.20  # share of the time without a core from which threads are said to fight
ENOUGH = 10  # boundaries from which on something is said of time
UNLIKE = 1.5  # times the training data's loss from which gate data is said to be unlike
FIRST = 4  # boundaries with trials at which both are compared, before the host knows its data by heart
DROPPED = "telemetry_dropped"
"""In RunCompleted.measured: measurements that the log was too slow for."""
WAITED = "waited"
"""In BoundaryReached.measured: seconds since the boundary before in which the training thread had no core."""


@dataclass(frozen=True, slots=True)
class Course:
    """``seconds`` between the first boundary and the last one of each resume, ``esper`` of them in Esper between steps,
    ``waited`` of them without a core, over ``boundaries``; ``dropped`` measurements; the host's mean losses on
    ``training`` data and on ``gate`` data at the first boundaries with trials, None where nothing was tried."""

    seconds: float
    esper: float
    waited: float
    boundaries: int
    dropped: int
    training: float | None
    gate: float | None


def course_of(events: Iterable[Event]) -> Course:
    """Of a run's events."""
    seconds, esper, waited, boundaries, dropped = 0.0, 0.0, 0.0, 0, 0
    losses: list[tuple[float, float]] = []
    last = None
    for event in events:
        content, now = event.content, event.envelope.time
        measured = getattr(content, "measured", None) or {}
        if isinstance(content, BoundaryReached):
            if last is not None:
                seconds += (now - last).total_seconds()
                esper += measured.get("seconds", 0.0)
                waited += measured.get(WAITED, 0.0)
                boundaries += 1
            last = now
            if len(losses) < FIRST:
                losses += [(content.loss, trial.loss) for trial in content.trials[:1] if trial.loss is not None]
        elif isinstance(content, RunResumed):
            last = None
        elif isinstance(content, RunCompleted):
            dropped += int(measured.get(DROPPED, 0.0))
    training, gate = (fmean(each) for each in zip(*losses, strict=True)) if losses else (None, None)
    return Course(seconds, esper, waited, boundaries, dropped, training, gate)


def course(state: RunState, seen: Course) -> Iterator[Finding]:
    """Gate data that is not like the training data, and what costs time without need."""
    if seen.training is not None and seen.gate is not None and seen.gate > UNLIKE * seen.training > 0:
        numbers: dict[str, float] = {"loss on gate data": seen.gate, "loss on training data": seen.training}
        what = (
            f"when seeds were first tried, the host's loss was {seen.gate:.3g} on the gate data and "
            f"{seen.training:.3g} on the training data: they are not alike, or the host knows its data by heart, and a "
            "seed is judged by the gate data alone"
        )
        change = "draw gate_data at random from what you train on, prepared alike; or train on more data"
        yield Finding("gate unlike the training data", what, change, numbers)
    if seen.boundaries >= ENOUGH and seen.seconds > 0:
        yield from _time(state, seen)
    if seen.dropped:
        what = f"{seen.dropped:,} measurements of telemetry were dropped, for the log was too slow for them"
        change = f"set telemetry.every={2 * settings_of(state).telemetry.every or 1}, or telemetry.buffer higher"
        yield Finding("telemetry dropped", what, change, {"dropped": seen.dropped}, rank=2)


def _time(state: RunState, seen: Course) -> Iterator[Finding]:
    threads = state.environment.threads if state.environment else 1
    if threads > 1 and seen.waited > WAITING * seen.seconds:
        share = seen.waited / seen.seconds
        what = (
            f"the training thread had no core for {share:.0%} of its time, and shares its work with {threads - 1} more"
        )
        numbers: dict[str, float] = {"share": share, "seconds": seen.waited, "threads": threads}
        change = "set OMP_NUM_THREADS=1, or torch.set_num_threads(1): esper doctor measures which is faster"
        yield Finding("threads fight", what, change, numbers, rank=2)
    if seen.esper > BUDGET * seen.seconds:
        every, share = settings_of(state).boundary.steps, seen.esper / seen.seconds
        numbers = {"share": share, "seconds": seen.esper, "boundary.steps": every}
        what = f"Esper took {share:.0%} of the time between steps ({seen.esper:.1f} of {seen.seconds:.1f} s)"
        change = f"set boundary.steps={2 * every}, so that digests and gates come half as often"
        yield Finding("overhead", what, change, numbers, rank=2)
