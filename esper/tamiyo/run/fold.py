"""The fold: a run's state from its events. Pure: no clock, no randomness, no I/O; the input is never changed.

Events of superseded writers are dropped before (``esper.log.ordering``). A RolledBack truncates every seed to what
it had at ``to_step``; what the run has learnt or spent stays: gate folds, verdicts, names, failed kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import replace
from typing import Any

from esper.errors import SequenceGap
from esper.events import Event, RunContent, runs
from esper.kasmina.seed.stages import IllegalMove, Stage, move
from esper.tamiyo.run.state import MetricState, Rejection, RunState, SeedState

WINDOW = 20  # boundary losses kept for the governor


def apply(state: RunState, event: Event) -> RunState:
    """``state`` after ``event``."""
    return fold(state, (event,))


def after(state: RunState, content: RunContent, epoch: int) -> RunState:
    """``state`` after the next event, of this content, by the writer of ``epoch``."""
    new = copy(state)
    _take(new, content, state.sequence + 1, epoch, set(SHARED))
    return new


def fold(state: RunState, events: Iterable[Event]) -> RunState:
    """``state`` after ``events``, which follow on it without a gap.

    Raises SequenceGap when they do not, or when a run's first event is not RunStarted, and IllegalMove when a
    seed, its site or the run cannot go where an event says.
    """
    new = copy(state)
    shared = set(SHARED)  # with the given state, until an event changes them
    expected = state.sequence
    for event in events:
        envelope, content = event.envelope, event.content
        expected += 1
        if envelope.sequence != expected:
            raise SequenceGap(_gap(state.run_id, expected, envelope.sequence))
        _take(new, content, expected, envelope.epoch, shared)
    return new


def _take(new: RunState, content: Any, sequence: int, epoch: int | None, shared: set[str]) -> None:
    """Change ``new``, which shares these dicts with another state."""
    handler = HANDLERS.get(type(content))
    if handler is None or (sequence == 1) is not (handler is _started):
        raise SequenceGap(_misplaced(new.run_id, sequence, type(content).__name__))
    for name in shared.intersection(CHANGED.get(type(content), ())):
        setattr(new, name, dict(getattr(new, name)))
        shared.discard(name)
    handler(new, content)
    new.sequence = sequence
    new.writer_epoch = epoch or new.writer_epoch


def _gap(run_id: str, expected: int, got: int | None) -> str:
    return f"run {run_id}: event {expected} is missing (the next one is {got}); copy the run's log again, whole"


def _misplaced(run_id: str, sequence: int, name: str) -> str:
    if sequence == 1:
        return f"run {run_id}: its first event is {name}, not RunStarted; copy the run's log again, from its start"
    return f"run {run_id}: {name} cannot be event {sequence} of a run; the log was not written by Esper's trainer"


def _running(state: RunState, what: str) -> None:
    if state.status != "running":
        raise IllegalMove(f"{what} in a run that is {state.status}")


def _started(state: RunState, event: runs.RunStarted) -> None:
    state.task, state.seed, state.settings = event.task, event.seed, event.settings
    state.model, state.optimizer, state.sites, state.gate = event.model, event.optimizer, event.sites, event.gate
    state.clip_norm, state.rules = event.clip_norm, event.rules
    state.environment, state.parameters_digest = event.environment, event.parameters_digest
    state.state_digests = event.state_digests
    state.params, state.best = event.params, event.best
    _described(state, event)


def _described(state: RunState, event: runs.RunStarted | runs.RunDescribed) -> None:
    state.name, state.tags, state.notes = event.name, event.tags, event.notes


def _logged(state: RunState, event: runs.MetricsLogged) -> None:
    if not len(event.metrics) == len(event.steps) == len(event.values):
        raise IllegalMove("metrics were logged in arrays of different lengths")
    for index, step, value in zip(event.metrics, event.steps, event.values, strict=True):
        if not 0 <= index < len(event.names):
            raise IllegalMove(f"a value was logged of metric {index}, of {len(event.names)}")
        name = event.names[index]
        known = state.metrics.get(name)
        state.metrics[name] = MetricState.first(step, value) if known is None else known.then(step, value)


def _resumed(state: RunState, event: runs.RunResumed) -> None:
    if state.status not in ("running", "paused"):
        raise IllegalMove(f"a run that is {state.status} cannot be resumed")
    state.status, state.cause, state.environment = "running", None, event.environment
    if not event.reopened:
        state.resumes += 1


def _paused(state: RunState, event: runs.RunPaused) -> None:
    _running(state, "a pause")
    state.status, state.step, state.cause = "paused", event.step, event.reason


def _completed(state: RunState, event: runs.RunCompleted) -> None:
    _running(state, "a completion")
    state.status, state.step = "completed", event.step
    state.final_loss, state.test, state.parameters_digest = event.final_loss, dict(event.test), event.parameters_digest


def _failed(state: RunState, event: runs.RunFailed) -> None:
    _running(state, "a failure")
    state.status, state.step, state.cause = "failed", event.step, event.cause


def _cancelled(state: RunState, event: runs.RunCancelled) -> None:
    _running(state, "a cancellation")
    state.status, state.step, state.cause = "cancelled", event.step, event.reason


def _boundary(state: RunState, event: runs.BoundaryReached) -> None:
    if state.status != "running":
        _running(state, "a boundary")
    step, loss = event.step, event.loss
    state.step, state.epoch, state.digest, state.loss = step, event.epoch, event.digest, loss
    state.learning_rate = event.learning_rate
    state.losses = (*state.losses[1 - WINDOW :], loss)
    state.loss_steps = (*state.loss_steps[1 - WINDOW :], step)
    if event.sites is not None:
        _change_sites(state, event.sites)
    if event.health is not None:
        try:
            state.measured.update(dict.fromkeys(map(_names(state).__getitem__, event.health.site), event.health))
        except IndexError:
            raise IllegalMove(f"step {step} measured a site that the run's table does not have") from None
    for trial in event.trials:
        seed = state.seeds.get(trial.seed)
        if seed is None or seed.stage is not Stage.TRAINING:
            raise IllegalMove(f"a trial of seed {trial.seed}, which is not in TRAINING")
        state.seeds[trial.seed] = SeedState(seed.transitions, (*seed.trials, (step, trial)))


def _names(state: RunState) -> tuple[str, ...]:
    return state.sites.names if state.sites is not None else ()


def _change_sites(state: RunState, sites: runs.SiteTable) -> None:
    """Known measurements stay with their sites, whose numbers may be others now."""
    numbers = {name: number for number, name in enumerate(sites.names)}
    moved = {old: numbers.get(name, -1) for old, name in enumerate(_names(state))}
    records = {id(record): record for record in state.measured.values()}
    renumbered = {
        key: replace(record, site=tuple(moved.get(n, -1) for n in record.site)) for key, record in records.items()
    }
    state.measured = {name: renumbered[id(record)] for name, record in state.measured.items() if name in numbers}
    state.sites = sites


def _decision(state: RunState, event: runs.DecisionMade) -> None:
    _running(state, "a decision")
    state.decisions += 1
    state.last_decision = event
    if event.action == "germinate":
        if state.pending is not None:
            raise IllegalMove(f"decision {event.decision} germinates while {state.pending.decision} is not carried out")
        state.pending = event


def _decision_rejected(state: RunState, event: runs.DecisionRejected) -> None:
    if event.reason == "kernel":
        if state.pending is None or state.pending.decision != event.decision:
            raise IllegalMove(f"decision {event.decision} is rejected but was not waiting to be carried out")
        site, blueprint = event.site or state.pending.site or "", state.pending.blueprint or ""
        state.rejections = (*state.rejections, Rejection(site, blueprint, event.step, event.detail))
        state.pending = None


def _command(state: RunState, event: runs.CommandAccepted | runs.CommandRejected) -> None:
    state.answered |= {str(event.command)}


def _seed(state: RunState, event: runs.SeedTransitioned) -> None:
    _running(state, "a seed's transition")
    known = state.seeds.get(event.seed)
    current = known.stage if known is not None else Stage.DORMANT
    if event.from_stage != current:
        raise IllegalMove(f"seed {event.seed} leaves {event.from_stage} but is {current}")
    move(current, _stage(event))
    if known is None:
        _birth(state, event)
    else:
        state.seeds[event.seed] = SeedState((*known.transitions, event), known.trials)
    if event.gate == "verdict" and event.evidence is not None and event.evidence.fold is not None:
        state.verdicts += 1
        state.gate_uses += 2 if event.to_stage == Stage.BLENDING else 1  # the audit's fold is taken from now on


def _stage(event: runs.SeedTransitioned) -> Stage:
    try:
        return Stage(event.to_stage)
    except ValueError:
        raise IllegalMove(f"seed {event.seed} goes to {event.to_stage}, which is no stage") from None


def _birth(state: RunState, event: runs.SeedTransitioned) -> None:
    if any(seed.site == event.site for seed in state.live_seeds()):
        raise IllegalMove(f"seed {event.seed} is born at site {event.site}, which is occupied")
    number = state.born.get(event.site, 0) + 1
    if event.seed != f"{event.site}#{number}":
        raise IllegalMove(f"seed {event.seed} is born at site {event.site}, whose next seed is {event.site}#{number}")
    state.born[event.site] = number
    state.last_birth = event.step
    state.seeds[event.seed] = SeedState((event,))
    state.pending = None


def _committed(state: RunState, event: runs.CheckpointCommitted) -> None:
    state.checkpoints = (*state.checkpoints, event)


def _retired(state: RunState, event: runs.CheckpointRetired) -> None:
    kept = list(state.checkpoints)
    for each in kept:
        if (each.step, each.manifest) == (event.step, event.manifest):
            kept.remove(each)  # one of equal ones: a pause's may be what was due at its step, byte for byte
            break
    state.checkpoints = tuple(kept)


def _rolled_back(state: RunState, event: runs.RolledBack) -> None:
    _running(state, "a rollback")
    to, state.step = event.to_step, event.step
    state.rollbacks = (*state.rollbacks, event.step)
    state.seeds = {name: kept for name, seed in state.seeds.items() if (kept := _truncated(seed, to)) is not None}
    kept_losses = sum(step <= to for step in state.loss_steps)
    state.losses, state.loss_steps = state.losses[:kept_losses], state.loss_steps[:kept_losses]
    if state.pending is not None and state.pending.step > to:
        state.pending = None


def _truncated(seed: SeedState, to_step: int) -> SeedState | None:
    transitions = tuple(t for t in seed.transitions if t.step <= to_step)
    trials = tuple((step, trial) for step, trial in seed.trials if step <= to_step)
    return SeedState(transitions, trials) if transitions else None


def _alert(state: RunState, event: runs.AlertRaised) -> None:
    state.alerts += 1


HANDLERS: dict[type, Callable[[RunState, Any], None]] = {
    runs.RunStarted: _started,
    runs.RunResumed: _resumed,
    runs.RunDescribed: _described,
    runs.MetricsLogged: _logged,
    runs.RunPaused: _paused,
    runs.RunCompleted: _completed,
    runs.RunFailed: _failed,
    runs.RunCancelled: _cancelled,
    runs.BoundaryReached: _boundary,
    runs.DecisionMade: _decision,
    runs.DecisionRejected: _decision_rejected,
    runs.CommandAccepted: _command,
    runs.CommandRejected: _command,
    runs.SeedTransitioned: _seed,
    runs.CheckpointCommitted: _committed,
    runs.CheckpointRetired: _retired,
    runs.RolledBack: _rolled_back,
    runs.AlertRaised: _alert,
}

CHANGED: dict[type, tuple[str, ...]] = {  # the dicts that a handler changes in place
    runs.BoundaryReached: ("measured", "seeds"),
    runs.SeedTransitioned: ("seeds", "born"),
    runs.MetricsLogged: ("metrics",),
}
SHARED = frozenset(name for names in CHANGED.values() for name in names)
