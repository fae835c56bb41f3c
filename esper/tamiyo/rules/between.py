"""What may stand on the log between two transactions that the rules decide: where a crash, a person or the disk's speed
has put it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from esper.events import Event, runs
from esper.settings import settings_from_json
from esper.tamiyo.rules import checkpoints, decider
from esper.tamiyo.rules.decider import Wish
from esper.tamiyo.run.state import ENDED, RunState, settings_of

CHANGING = (runs.BoundaryReached, runs.RolledBack, runs.SeedTransitioned)


class Fault(NamedTuple):
    """What is wrong with an event, and by which rule."""

    rule: str
    what: str


class Between:
    """What a run has had so far that its state does not keep. ``faults`` comes before an event is folded, ``note``
    after the transactions that the rules decide."""

    def __init__(self) -> None:
        self._steps: list[int] = []  # of boundaries and rollbacks
        self._ends: list[int] = []  # the sequence numbers of their last events that change the model
        self._changes: dict[int, list[str]] = {}  # by step, why a checkpoint was due beside the setting's interval
        self._due: list[int] = [0]  # the steps of committed checkpoints that were due
        self._damaged: set[int] = set()  # passed over at the resume that came last
        self._reopened = 0
        self._wish: Wish | None = None

    def note(self, state: RunState, contents: Sequence[object], wish: Wish | None) -> None:
        """A boundary or a rollback with these events; ``state`` has them all, and a command wants ``wish``."""
        self._steps.append(state.step)
        after = next(count for count, content in enumerate(reversed(contents)) if isinstance(content, CHANGING))
        self._ends.append(state.sequence - after)  # a checkpoint taken in a replay counts no others
        changes = checkpoints.changes(contents)
        if changes:
            self._changes[state.step] = changes
        self._wish = wish

    def faults(self, state: RunState, event: Event) -> Iterator[Fault]:
        """What speaks against ``event`` after ``state``."""
        content = event.content
        match content:
            case runs.RunStarted():
                yield from _begun(content)
            case runs.BoundaryReached() | runs.RolledBack() | runs.RunFailed() | runs.RunCompleted():
                yield from self._obeyed()
                yield from self._in_time(state, content)
            case runs.RunPaused():
                yield from self._pause(state, content)
                self._wish = None
            case runs.RunResumed():
                self._wish = self._wish if content.reopened else None
                self._reopened += content.reopened
                yield from self._resumption(state, content)
            case runs.CheckpointCommitted():
                yield from self._committed(state, content)
            case runs.CheckpointRetired():
                yield from self._retired(state, content)
            case runs.MetricsLogged():
                yield from _measured(state, content)

    def _obeyed(self) -> Iterator[Fault]:
        if self._wish == "pause":
            yield Fault("a pause that was accepted", "the run goes on, though a command to pause it was accepted")
            self._wish = None

    def _in_time(
        self,
        state: RunState,
        event: runs.BoundaryReached | runs.RolledBack | runs.RunFailed | runs.RunCompleted,
    ) -> Iterator[Fault]:
        every, last = settings_of(state).boundary.steps, self._steps[-1] if self._steps else 0
        due = decider.boundary_due(last, event.step, every)
        rule = f"a boundary comes every {every} steps"
        if isinstance(event, runs.RunCompleted):
            if event.step < last:
                yield Fault(rule, f"an end at step {event.step}, after step {last}")
            elif due:
                yield Fault(rule, f"an end at step {event.step}, without the boundary that was due after {last}")
        elif event.step <= last:
            what = "a boundary" if isinstance(event, runs.BoundaryReached) else "a loss that is not finite"
            yield Fault(rule, f"{what} at step {event.step}, after step {last}")
        elif isinstance(event, runs.BoundaryReached) and not due:
            yield Fault(rule, f"a boundary at step {event.step}, when none was due since step {last}")

    def _pause(self, state: RunState, event: runs.RunPaused) -> Iterator[Fault]:
        rule = "a pause is asked for by a command or by Ctrl-C"
        by_command = self._wish == "pause"
        if event.reason != (decider.PAUSED_BY_COMMAND if by_command else decider.INTERRUPTED):
            asked = "a command asked for it" if by_command else "no command asked for it"
            yield Fault(rule, f"its reason is {event.reason!r}, but {asked}")
        if by_command and event.step != state.step:
            yield Fault(rule, f"it is of step {event.step}, the command was accepted at step {state.step}")
        if event.step not in {each.step for each in state.checkpoints}:
            yield Fault("a pause has its checkpoint", f"there is no checkpoint of step {event.step}")

    def _resumption(self, state: RunState, event: runs.RunResumed) -> Iterator[Fault]:
        rule = "a resume begins at the newest checkpoint that is whole"
        manifests = Counter(step for step, _ in {(each.step, each.manifest) for each in state.checkpoints})
        self._damaged = {step for step in manifests if checkpoints.damaged_note(step) in event.notes}
        gone = {step for step in self._damaged if manifests[step] == 1}  # of several one may be whole
        newest = {checkpoints.newest_usable(state, damaged) for damaged in (self._damaged, gone)}
        if event.checkpoint not in manifests:
            yield Fault(rule, f"it begins at step {event.checkpoint}, of which there is no checkpoint")
        elif event.checkpoint not in newest:
            wanted = " or ".join(str(step) for step in sorted(step for step in newest if step is not None))
            yield Fault(rule, f"it begins at step {event.checkpoint}, but the newest that is whole is of {wanted}")

    def _committed(self, state: RunState, event: runs.CheckpointCommitted) -> Iterator[Fault]:
        step, last = event.step, self._due[bisect_left(self._due, event.step) - 1] if event.step else 0
        wanted = list(self._changes.get(step, ()))
        if step - last >= settings_of(state).checkpoint.steps:
            wanted.append(checkpoints.STEPS)
        reason = ",".join(each for each in event.reason.split(",") if each != checkpoints.BEST)
        if not event.reason or (reason not in _free(step) and reason != ",".join(wanted)):
            why = f"due for {', '.join(wanted)}" if wanted else "not due"
            yield Fault("when a checkpoint is due", f"its reason is {event.reason!r}, but at step {step} it was {why}")
        if checkpoints.is_best(event.reason) and state.best is None:
            yield Fault("when a checkpoint is due", "its reason is that a metric is best, but the run looks at none")
        every, reached = settings_of(state).boundary.steps, self._steps[-1] if self._steps else 0
        if step < 0 or (step > reached and decider.boundary_due(reached, step, every)):
            yield Fault(
                "a checkpoint is of a step that was done", f"it is of step {step}, after a boundary at {reached}"
            )
        if state.status != "running":
            yield Fault("a checkpoint is of a run that goes on", f"the run is {state.status}")
        place = bisect_right(self._steps, step)
        least = self._ends[place - 1] - self._reopened if place else 0
        if not least <= event.sequence <= state.sequence:
            yield Fault(
                "what a checkpoint includes",
                f"it includes the run up to event {event.sequence}, but step {step} ended with event {least} at least",
            )
        if checkpoints.was_due(event.reason) and step not in self._due[bisect_left(self._due, step) :]:
            self._due.insert(bisect_right(self._due, step), step)

    def _retired(self, state: RunState, event: runs.CheckpointRetired) -> Iterator[Fault]:
        rule = "a checkpoint is retired when no recovery can need it"
        known = {(each.step, each.manifest) for each in state.checkpoints}
        gone = checkpoints.expendable(state, settings_of(state).checkpoint.keep, checkpoints.newest_due(state))
        if (event.step, event.manifest) not in known:
            yield Fault(rule, f"there is no checkpoint {event.manifest[:12]} of step {event.step}")
        elif event.step not in self._damaged and (event.step, event.manifest) not in {
            (each.step, each.manifest) for each in gone
        }:
            yield Fault(rule, f"the checkpoint of step {event.step} is still needed")


def _measured(state: RunState, event: runs.MetricsLogged) -> Iterator[Fault]:
    """What speaks against values of metrics. ``state`` may lag behind the step by less than a boundary."""
    rule = "a metric's values are in the order of their steps"
    last = {name: metric.step for name, metric in state.metrics.items()}
    if len(set(event.names)) != len(event.names) or not set(event.metrics) <= set(range(len(event.names))):
        yield Fault(rule, "its metrics are not numbered each once")
        return
    for index, step in zip(event.metrics, event.steps, strict=False):
        name = event.names[index]
        if step < last.get(name, 0):
            yield Fault(rule, f"{name} is of step {step}, after one of step {last[name]}")
        last[name] = max(step, last.get(name, 0))
    if state.status in ENDED:
        yield Fault("metrics are of a run that goes on", f"the run is {state.status}")


def _free(step: int) -> tuple[str, ...]:
    """The reasons for which one may be taken at ``step`` whatever else happened there."""
    return (checkpoints.START,) if step == 0 else (checkpoints.EPOCH, checkpoints.PAUSE, checkpoints.END)


def _begun(event: runs.RunStarted) -> Iterator[Fault]:
    folds = settings_from_json(event.settings).gate.folds
    if event.gate is not None and event.gate.folds != folds:
        what = f"the gate data is in {event.gate.folds} folds, the setting gate.folds is {folds}"
        yield Fault("the gate data is in as many folds as the settings say", what)
