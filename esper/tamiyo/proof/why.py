"""A seed's chain of causes, in words: measurements, decision, kernel, gates, outcome."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from esper.errors import UsageError
from esper.events import Event, assets, runs
from esper.kasmina.seed.stages import Stage
from esper.tamiyo.policy.remote import OpenDecisions
from esper.tamiyo.run.fold import apply
from esper.tamiyo.run.state import RunState, settings_of

GATES = {
    "birth": "the gate of birth",
    "verdict": "the verdict",
    "blend": "the gate of blending",
    "audit": "the audit",
    "governor": "the governor",
    "finite": "the check that its loss is finite",
}
CAUSES = {"decision": "as decided", "command": "by command", "rollback": "by a rollback"}
OUTCOMES = {
    Stage.FOSSILISED: "it earned its place: its parameters belong to the host",
    Stage.CULLED: "it was removed, and its site rests",
}


@dataclass(frozen=True, slots=True)
class Step:
    """One link of the chain: the run's event (``sequence``) at training step ``step``, what kind of cause it is,
    what it says in words, and the numbers that it rests on."""

    sequence: int
    step: int
    kind: str
    text: str
    numbers: dict[str, Any] = field(default_factory=dict)


def explain(events: Iterable[Event], seed: str, kernels: Iterable[Event] = ()) -> list[Step]:
    """The chain of causes of ``seed`` in a run's ``events``, oldest first.

    ``kernels`` are events of ``esper.assets``, from which the kernel's size is told. Raises UsageError, naming the
    seeds that there are, when the run has no such seed.
    """
    compiled = {e.content.kernel: e.content for e in kernels if isinstance(e.content, assets.KernelCompiled)}
    chain: list[Step] = []
    names: dict[str, None] = {}
    state = RunState("")
    asked = OpenDecisions(1)
    for event in events:
        content = event.content
        if isinstance(content, runs.DecisionMade | runs.SeedTransitioned) and content.seed:
            names[content.seed] = None
        before, state = state, apply(state, event)
        if isinstance(content, runs.RunStarted):
            asked = OpenDecisions(settings_of(state).decision.lag)
        elif isinstance(content, runs.BoundaryReached):
            asked.reached(state)
        elif isinstance(content, runs.DecisionMade) and content.issuer is not None:
            before = asked.due() or before  # what the policy saw
        chain += (Step(state.sequence, *told) for told in _told(before, state, content, seed, compiled))
    if not chain:
        raise UsageError(_unknown(seed, list(names)))
    return [*chain, _outcome(state, seed)]


def render(chain: Iterable[Step]) -> str:
    """``chain`` as text, a line for each link."""
    return "\n".join(f"step {link.step:>6}  {link.kind:<12}  {link.text}" for link in chain)


_Told = tuple[int, str, str, dict[str, Any]]


def _told(before: RunState, after: RunState, content: object, seed: str, compiled: dict[str, Any]) -> list[_Told]:
    """What an event says about ``seed``: step, kind, words, numbers."""
    match content:
        case runs.DecisionMade(action="germinate", seed=name) if name == seed:
            return [_measurements(before, content), _decision(content)]
        case runs.DecisionRejected() if before.pending is not None and before.pending.seed == seed:
            words = f"decision {content.decision} could not be carried out ({content.reason}): {content.detail}"
            return [(content.step, "rejected", words, {})]
        case runs.SeedTransitioned(seed=name) if name == seed:
            return _transition(content, compiled)
        case runs.BoundaryReached():
            return [_trial(content.step, trial) for trial in content.trials if trial.seed == seed]
        case runs.CommandAccepted(seed=name) if name == seed:
            return [(content.step, "command", f"{content.issuer} asked to {content.kind} it", {})]
        case runs.RolledBack() if before.seeds.get(seed) != after.seeds.get(seed) or _dropped(before, after, seed):
            return [_rollback(content, after, seed)]
    return []


def _measurements(state: RunState, decision: runs.DecisionMade) -> _Told:
    row = state.health.get(decision.site or "", {})
    known = {name: value for name, value in row.items() if value is not None}
    said = ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in known.items())
    loss = "no loss yet" if state.loss is None else f"training loss {state.loss:.4g}"
    words = f"{loss}; {decision.site}: {said or 'not measured yet'}"
    return state.step, "measurements", words, {"loss": state.loss, **known}


def _decision(made: runs.DecisionMade) -> _Told:
    chosen = (made.action, made.site, made.blueprint)
    others = [a for a in made.alternatives if (a.action, a.site, a.blueprint) != chosen]
    words = f"{made.policy} {made.version} chose, with probability {made.propensity:.3g}: {made.reason}"
    if made.issuer is not None:
        words = f"{made.issuer} proposed it about step {made.decision.partition('/')[0]}: {words}"
    if others:
        words += f"; instead of {'; '.join(_alternative(a) for a in others)}"
    numbers = {"propensity": made.propensity, "scores": {_place(a): a.score for a in made.alternatives}}
    return made.step, "decision", words, numbers


def _place(action: runs.Alternative) -> str:
    if action.site is None:
        return action.action
    return f"{(action.blueprint or '').partition('@')[0]} at {action.site}"


def _alternative(action: runs.Alternative) -> str:
    return f"{_place(action)} (score {action.score:.3g}, probability {action.propensity:.2g})"


def _trial(step: int, trial: runs.Trial) -> _Told:
    where = f"in isolation on {trial.n} examples of gate fold {trial.fold}"
    words = f"{where} it {_gain(trial.mean)} (spread {trial.s:.3g})"
    return step, "trial", words, {"fold": trial.fold, "n": trial.n, "mean": trial.mean, "s": trial.s}


def _gain(mean: float) -> str:
    return f"lowers the loss by {mean:.4g}" if mean >= 0 else f"raises the loss by {-mean:.4g}"


def _transition(moved: runs.SeedTransitioned, compiled: dict[str, Any]) -> list[_Told]:
    told: list[_Told] = []
    if moved.from_stage == Stage.DORMANT:
        told.append(_kernel(moved, compiled.get(moved.kernel)))
    words = f"{moved.from_stage} → {moved.to_stage}, {_cause(moved)}"
    numbers: dict[str, Any] = {}
    if moved.evidence is not None:
        words += f": {_evidence(moved.evidence)}"
        fields = moved.evidence.__dataclass_fields__
        numbers = {n: v for n in fields if (v := getattr(moved.evidence, n)) is not None}
    kind = moved.gate or ("germination" if moved.from_stage == Stage.DORMANT else moved.cause)
    return [*told, (moved.step, kind, words, numbers)]


def _kernel(moved: runs.SeedTransitioned, compiled: assets.KernelCompiled | None) -> _Told:
    words = f"{moved.blueprint} was compiled for {moved.site} as kernel {moved.kernel[:12]}"
    numbers: dict[str, Any] = {"kernel": moved.kernel}
    if compiled is not None:
        words += f" ({compiled.parameters:,} parameters, {compiled.size:,} bytes)"
        numbers |= {"parameters": compiled.parameters, "size": compiled.size}
    return moved.step, "kernel", words, numbers


def _cause(moved: runs.SeedTransitioned) -> str:
    if moved.gate is not None:
        name = GATES.get(moved.gate, f"the gate {moved.gate}")
        passed = moved.evidence.passed if moved.evidence is not None else moved.to_stage != Stage.CULLED
        return f"it {'passed' if passed else 'did not pass'} {name}"
    return CAUSES.get(moved.cause, moved.cause)


def _evidence(evidence: runs.Evidence) -> str:
    words = [evidence.reason]
    if evidence.mean is not None:
        compared = "against the host as it was before" if evidence.rent is None else "in isolation"
        words.append(f"on {evidence.n} examples of gate fold {evidence.fold}, {compared}, it {_gain(evidence.mean)}")
    if evidence.bound is not None:
        words.append(
            f"spread {_number(evidence.s)}, training noise {_number(evidence.sigma)}, z {_number(evidence.z)}, "
            f"bound {evidence.bound:.4g}, asked {_number(evidence.delta)}"
        )
        if evidence.rent is not None:
            words[-1] += f" and a rent of {evidence.rent:.3g}"
    if evidence.ablation is not None:
        words.append(f"switching it off would change the loss by {evidence.ablation:.4g}, which decides nothing")
    return "; ".join(words)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"


def _dropped(before: RunState, after: RunState, seed: str) -> bool:
    return before.pending is not None and before.pending.seed == seed and after.pending is None


def _rollback(event: runs.RolledBack, after: RunState, seed: str) -> _Told:
    words = f"the run went back to its state at step {event.to_step} ({event.cause})"
    kept = after.seeds.get(seed)
    words += f", where the seed was in {kept.stage}" if kept is not None else ", before the seed was born"
    return event.step, "rollback", words, {"to_step": event.to_step}


def _outcome(state: RunState, name: str) -> Step:
    seed = state.seeds.get(name)
    if seed is None:
        waiting = state.pending is not None and state.pending.seed == name
        words = "it was decided and waits for its kernel" if waiting else "it does not exist"
        return Step(state.sequence, state.step, "outcome", words)
    words = f"{seed.stage} since step {seed.since}"
    words += f": {OUTCOMES[seed.stage]}" if seed.stage in OUTCOMES else f"; the run is {state.status}"
    return Step(state.sequence, state.step, "outcome", words, {"stage": seed.stage.value, "since": seed.since})


def _unknown(seed: str, names: list[str]) -> str:
    there = f"it has {', '.join(names)}" if names else "no seed has germinated in it"
    return f"the run has no seed {seed!r}; {there}"
