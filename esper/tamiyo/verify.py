"""Computes a run again from its log: ids, order, transitions, observations, decisions and verdicts.

What does not agree is a finding. The model's own numbers cannot be computed without training; re-running steps
compares their digests (``esper resume``).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from esper.errors import SequenceGap
from esper.events import Event, runs
from esper.events.ids import run_event_id
from esper.kasmina.stages import IllegalMove, Stage
from esper.kasmina.verdict import recheck, z_value
from esper.tamiyo.fold import apply
from esper.tamiyo.observation import digest, observe
from esper.tamiyo.policies import known
from esper.tamiyo.remote import Questions
from esper.tamiyo.state import RunState, SeedState, settings_of


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in event ``sequence`` that does not follow from what came before it."""

    sequence: int
    what: str


@dataclass(frozen=True, slots=True)
class Report:
    """What was checked: how many events, observations, decisions, verdicts, audits and transitions were computed
    again, and every finding. ``unknown_policy`` counts decisions that this version cannot make again."""

    findings: tuple[Finding, ...]
    counts: dict[str, int]

    @property
    def ok(self) -> bool:
        return not self.findings


def verify(run_id: str, events: Iterable[Event]) -> Report:
    """Check the run's ``events``, which are in order. Stops at one that cannot be folded."""
    state, findings = RunState(run_id), list[Finding]()
    counts = Counter(dict.fromkeys(("events", "transitions", "observations", "decisions", "verdicts", "audits"), 0))
    counts["unknown_policy"] = 0
    asked: Questions | None = None
    for event in events:
        sequence = state.sequence + 1
        findings += (Finding(sequence, what) for what in _identity(state, event))
        try:
            after = apply(state, event)
        except (SequenceGap, IllegalMove) as error:
            findings.append(Finding(sequence, f"{error}; what follows was not checked"))
            break
        counts["events"] += 1
        if isinstance(event.content, runs.RunStarted):
            decision = settings_of(after).decision
            asked = Questions(decision.lag) if decision.where == "remote" else None
        elif isinstance(event.content, runs.BoundaryReached) and asked is not None:
            asked.reached(after)
        elif isinstance(event.content, runs.DecisionMade):
            findings += (Finding(sequence, what) for what in _decision(asked, state, event.content, counts))
        check = CHECKS.get(type(event.content))
        if check is not None:
            findings += (Finding(sequence, what) for what in check(state, after, event.content, counts))
        state = after
    return Report(tuple(findings), dict(counts))


def _identity(state: RunState, event: Event) -> Iterator[str]:
    envelope = event.envelope
    if envelope.epoch is None or envelope.sequence is None:
        yield "it has no epoch and no sequence number"
        return
    if envelope.id != run_event_id(state.run_id, envelope.epoch, envelope.sequence):
        yield f"its id is {envelope.id}, which is not that of event {envelope.sequence} of epoch {envelope.epoch}"
    if envelope.epoch < state.writer_epoch:
        yield f"its epoch is {envelope.epoch}, after one of epoch {state.writer_epoch}"


def _differs(name: str, logged: object, computed: object) -> Iterator[str]:
    if logged != computed:
        yield f"{name} is {logged}, computed {computed}"


def _boundary(state: RunState, after: RunState, event: runs.BoundaryReached, counts: Counter[str]) -> Iterator[str]:
    if event.step < state.step or event.step in state.loss_steps:
        yield f"a boundary at step {event.step}, after step {state.step}"


def _decision(
    asked: Questions | None, state: RunState, event: runs.DecisionMade, counts: Counter[str]
) -> Iterator[str]:
    yield from _differs("step", event.step, state.step)
    if state.last_decision is not None and state.last_decision.step == event.step:
        yield f"a second decision at step {event.step}"
    if (event.issuer is None) is (asked is not None):
        yield f"it was proposed by {event.issuer or 'nobody'}, but decisions are {'remote' if asked else 'local'}"
    seen = state if asked is None else asked.due()
    if seen is None:
        yield f"a decision at step {event.step}, when none was due yet"
        return
    if not event.decision.startswith(f"{seen.step}/"):
        yield f"decision {event.decision} is not named after step {seen.step}"
    yield from _differs("policy", event.policy, settings_of(state).policy.name)
    policy = known(event.policy, event.version)
    if policy is None:
        counts["unknown_policy"] += 1
        return
    observation = observe(seen, policy.observation)
    counts["observations"] += 1
    yield from _differs("observation", event.observation, digest(observation))
    counts["decisions"] += 1
    decision = policy.decide(observation)
    for name in ("action", "site", "blueprint", "seed", "propensity", "alternatives", "reason"):
        yield from _differs(name, getattr(event, name), getattr(decision, name))


def _seed(state: RunState, after: RunState, event: runs.SeedTransitioned, counts: Counter[str]) -> Iterator[str]:
    counts["transitions"] += 1
    seed = state.seeds.get(event.seed)
    if seed is None:
        yield from _birth(state, event)
        return
    for name in ("site", "blueprint", "kernel"):
        yield from _differs(f"the {name} of seed {event.seed}", getattr(event, name), getattr(seed, name))
    if event.gate is not None and event.evidence is None:
        yield f"the gate {event.gate} gave no evidence"
    elif event.evidence is not None:
        if event.evidence.passed is (event.to_stage == Stage.CULLED):
            yield f"the evidence says passed={event.evidence.passed}, but seed {event.seed} went to {event.to_stage}"
        if event.gate == "verdict":
            yield from _verdict(state, seed, event.evidence, counts)
        elif event.gate == "audit":
            yield from _audit(state, seed, event.evidence, counts)


def _birth(state: RunState, event: runs.SeedTransitioned) -> Iterator[str]:
    decided = state.pending
    if decided is None:
        yield f"seed {event.seed} was born without a decision"
        return
    for name in ("seed", "site", "blueprint"):
        yield from _differs(f"the {name} at birth", getattr(event, name), getattr(decided, name))


def _verdict(state: RunState, seed: SeedState, evidence: runs.Evidence, counts: Counter[str]) -> Iterator[str]:
    counts["verdicts"] += 1
    settings = settings_of(state).verdict
    trials = [trial for _, trial in seed.trials]
    if not recheck(evidence, trials, settings.measurements):
        yield f"the verdict on seed {seed.name} does not follow from its evidence and isolated measurements"
    if evidence.fold is None:
        return
    folds = state.gate.folds if state.gate is not None else 1
    fold = state.gate_uses % folds
    yield from _differs("the verdict's fold", evidence.fold, fold)
    yield from _differs("the audit's fold", evidence.audit_fold, (fold + 1) % folds if evidence.passed else None)
    yield from _near("z", evidence.z, z_value(settings.alpha, state.verdicts + 1))
    yield from _near("delta", evidence.delta, settings.delta)
    parameters = _parameters(state, seed)
    if parameters is not None:
        yield from _near("rent", evidence.rent, settings.rent * parameters)


def _audit(state: RunState, seed: SeedState, evidence: runs.Evidence, counts: Counter[str]) -> Iterator[str]:
    counts["audits"] += 1
    settings = settings_of(state).verdict
    if not recheck(evidence):
        yield f"the audit of seed {seed.name} does not follow from its evidence"
    if evidence.fold is None:
        return
    blended = seed.entered(Stage.BLENDING)
    reserved = blended.evidence.audit_fold if blended is not None and blended.evidence is not None else None
    yield from _differs("the audit's fold", evidence.fold, reserved)
    yield from _near("z", evidence.z, NormalDist().inv_cdf(settings.alpha))
    yield from _near("delta", evidence.delta, -settings.delta)


def _near(name: str, logged: float | None, computed: float) -> Iterator[str]:
    # inv_cdf and log may differ in the last bit between C libraries.
    if logged is None or not math.isclose(logged, computed, rel_tol=1e-9, abs_tol=1e-15):
        yield f"{name} is {logged}, computed {computed}"


def _parameters(state: RunState, seed: SeedState) -> int | None:
    table = state.sites
    if table is None or seed.site not in table.names or seed.blueprint not in table.blueprints:
        return None
    cost = table.costs[table.names.index(seed.site)][table.blueprints.index(seed.blueprint)]
    return cost if cost >= 0 else None


def _rollback(state: RunState, after: RunState, event: runs.RolledBack, counts: Counter[str]) -> Iterator[str]:
    yield from _differs("what was removed", sorted(event.removed), sorted(set(state.seeds) - set(after.seeds)))
    if event.to_step not in {checkpoint.step for checkpoint in state.checkpoints}:
        yield f"it went back to step {event.to_step}, of which there is no checkpoint"


def _command(
    state: RunState, after: RunState, event: runs.CommandAccepted | runs.CommandRejected, counts: Counter[str]
) -> Iterator[str]:
    if str(event.command) in state.answered:
        yield f"command {event.command} was answered before"


def _completed(state: RunState, after: RunState, event: runs.RunCompleted, counts: Counter[str]) -> Iterator[str]:
    stages = Counter(seed.stage.value for seed in state.seeds.values())
    logged = {stage: count for stage, count in event.seeds.items() if count}
    yield from _differs("the count of seeds", dict(sorted(logged.items())), dict(sorted(stages.items())))


CHECKS: dict[type, Callable[[RunState, RunState, Any, Counter[str]], Iterator[str]]] = {
    runs.BoundaryReached: _boundary,
    runs.SeedTransitioned: _seed,
    runs.RolledBack: _rollback,
    runs.CommandAccepted: _command,
    runs.CommandRejected: _command,
    runs.RunCompleted: _completed,
}
