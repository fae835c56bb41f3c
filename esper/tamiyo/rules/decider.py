"""The rules of a run: what follows at a boundary, after a loss that is not finite, and at its end.

Each script takes the folded run and what no rule can say (``inputs``), asks for what has to be measured, and puts the
events of one transaction in order. A trainer and ``verify`` carry out the same scripts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from esper.errors import RunUnusable
from esper.events.ids import LONGEST_ISSUER, kernel_seed
from esper.events.runs import (
    AlertRaised,
    BoundaryReached,
    CommandAccepted,
    CommandRejected,
    DecisionRejected,
    Evidence,
    RolledBack,
    RunCancelled,
    RunCompleted,
    RunDescribed,
    RunFailed,
    SeedTransitioned,
    Trial,
)
from esper.kasmina.seed.stages import IN_THE_HOST, Stage
from esper.settings import Governor
from esper.tamiyo.policy.remote import OpenDecisions
from esper.tamiyo.rules import gates, script
from esper.tamiyo.rules.checkpoints import newest_due
from esper.tamiyo.rules.decisions import decide
from esper.tamiyo.rules.script import Command, Compiled, NotCompiled, Script, put
from esper.tamiyo.run import about
from esper.tamiyo.run.anomaly import alarm
from esper.tamiyo.run.state import ENDED, RunState, SeedState, settings_of

RULES = 1
"""The number of these rules, in RunStarted."""

Wish = Literal["pause", "stop"]

NEVER_UPDATED = "the loss is not finite before the first update; look at the data, the loss and the initial weights"
PAUSED_BY_COMMAND, INTERRUPTED, STOPPED_BY_COMMAND = "a pause command", "Ctrl-C", "a stop command"


def check_rules(state: RunState) -> None:
    """Raise RunUnusable unless this version knows the rules by which the run decides."""
    if state.rules != RULES:
        raise RunUnusable(
            f"run {state.run_id} decides by rules {state.rules}, this version of Esper knows rules {RULES} alone; "
            "use the version that began it, or a newer one"
        )


def boundary_due(before: int, step: int, every: int) -> bool:
    """Whether a boundary comes after ``step``, when ``before`` was the last step after which it was looked for: a loop
    may take several steps with one batch. ``every`` is the setting ``boundary.steps``."""
    return step // every > before // every


def boundary(state: RunState, arrival: BoundaryReached, asked: OpenDecisions | None) -> Script[Wish | None]:
    """A boundary's transaction, from ``arrival``, whose trials are still to be measured. ``asked`` are the boundaries
    before, of a run whose policy is elsewhere; this one is added. Returns what a command wants of the run."""
    trials = yield from _trials(state, arrival.failed or ())
    state = yield from put(replace(arrival, trials=trials), "the trials that are due at a boundary")
    if asked is not None:
        asked.reached(state)
    state, wish = yield from _answer_commands(state)
    state = yield from _judge(state, frozenset(arrival.failed or ()))
    state = yield from _germinate(state)
    state = yield from decide(state, asked)
    if wish == "stop":
        yield from put(RunCancelled(step=state.step, reason=STOPPED_BY_COMMAND), "a stop that was accepted")
    return wish


def rollback(state: RunState, step: int, updated: bool) -> Script[str | None]:
    """The transaction after a loss that is not finite, all checkpoints being committed; ``updated`` says whether the
    optimiser has ever stepped. Returns why that ends the run; None if it goes back to the newest checkpoint due."""
    cause = hopeless(state.rollbacks, step, updated, settings_of(state).governor)
    if cause is not None:
        yield from put(RunFailed(step=step, cause=cause), "when the governor gives up")
        return cause
    to_step = newest_due(state)
    removed = tuple(name for name, seed in state.seeds.items() if seed.transitions[0].step > to_step)
    back = RolledBack(step=step, to_step=to_step, cause="the loss is not finite", removed=removed)
    state = yield from put(back, "a rollback to the newest checkpoint that was due")
    for seed in state.live_seeds():
        if seed.stage in IN_THE_HOST:
            state = yield from put(transition(seed, Stage.CULLED, step, "rollback"), "a rollback culls what blends")
    return None


def completion(state: RunState, end: RunCompleted) -> Script[None]:
    """The loop is over: ``end``, but for the count of seeds."""
    stages = Counter(seed.stage.value for seed in state.seeds.values())
    yield from put(replace(end, seeds=dict(sorted(stages.items()))), "the count of seeds at the end")


def afterwards(state: RunState) -> Script[None]:
    """What comes after a run's end: answers to commands, which can still say what it is called."""
    yield from _answer_commands(state)


def hopeless(rollbacks: Sequence[int], step: int, updated: bool, settings: Governor) -> str | None:
    """Why a loss that is not finite at ``step`` ends the run, in words; None if a rollback may help.

    ``rollbacks`` are the steps of all rollbacks so far, ``updated`` says whether the optimiser has ever stepped.
    """
    if not updated:
        return NEVER_UPDATED
    recent = [each for each in rollbacks if each > step - settings.window]
    if len(recent) < settings.rollbacks:
        return None
    return (
        f"the loss is not finite, after {len(recent)} rollbacks within {settings.window} steps; "
        "lower the learning rate or look at the data"
    )


def transition(
    seed: SeedState, to: Stage, step: int, cause: str, gate: str | None = None, evidence: Evidence | None = None
) -> SeedTransitioned:
    """The event that moves ``seed`` to another stage."""
    return SeedTransitioned(
        site=seed.site,
        seed=seed.name,
        blueprint=seed.blueprint,
        kernel=seed.kernel,
        from_stage=seed.stage.value,
        to_stage=to.value,
        step=step,
        cause=cause,
        gate=gate,
        evidence=evidence,
    )


def _trials(state: RunState, failed: Sequence[str]) -> Script[tuple[Trial, ...]]:
    """An isolated measurement of each seed in TRAINING that has not failed."""
    found = []
    for seed in state.live_seeds():
        if seed.stage is Stage.TRAINING and seed.name not in failed:
            fold = gates.trial_fold(state, seed)
            gains: script.Gains = yield script.Trial(seed.name, fold)
            assert gains.mean is not None
            assert gains.s is not None
            trial = Trial(
                seed=seed.name,
                fold=fold,
                n=gates.fold_size(state, fold),
                mean=gains.mean,
                s=gains.s,
                gradient_norm=gains.gradient_norm,
                loss=gains.loss,
            )
            found.append(trial)
    return tuple(found)


def _answer_commands(state: RunState) -> Script[tuple[RunState, Wish | None]]:
    """Answer each command once."""
    wish: Wish | None = None
    while (asked := (yield script.NextCommand())) is not None:
        command: Command = asked
        if str(command.id) in state.answered:
            continue
        refusal = command.forged or _refusal(state, command)
        if refusal is not None:
            rejected = CommandRejected(
                step=state.step,
                command=command.id,
                kind=command.kind,
                seed=command.seed,
                issuer=command.issuer[:LONGEST_ISSUER],
                reason=refusal,
            )
            state = yield from put(rejected, "a command that cannot be obeyed is rejected", command.id)
            continue
        accepted = CommandAccepted(
            step=state.step, command=command.id, kind=command.kind, seed=command.seed, issuer=command.issuer
        )
        state = yield from put(accepted, "a command that can be obeyed is accepted", command.id)
        if command.kind == "cull" and command.seed is not None:
            cull = transition(state.seeds[command.seed], Stage.CULLED, state.step, "command")
            state = yield from put(cull, "a cull that was accepted", command.id)
        elif command.kind in about.KINDS:
            described: RunDescribed = yield script.Description(command.id)
            state = yield from put(described, "a name, tag or note that was accepted", command.id)
        elif command.kind == "stop":
            wish = "stop"
        elif command.kind == "pause" and wish is None:
            wish = "pause"
    return state, wish


def _refusal(state: RunState, command: Command) -> str | None:
    if command.kind in about.KINDS:
        return None
    if command.kind not in ("pause", "stop", "cull"):
        return f"no such command: {command.kind}"
    if state.status in ENDED:
        return f"the run is {state.status}"
    if command.kind != "cull":
        return None
    if command.seed not in state.seeds:
        return f"there is no seed {command.seed}"
    if not state.seeds[command.seed].live:
        return f"seed {command.seed} is {state.seeds[command.seed].stage} already"
    return None


def _judge(state: RunState, failed: frozenset[str]) -> Script[RunState]:
    """Ask the gate of each live seed whose time has come, those in the host first."""
    step = state.step
    warning = alarm(state.losses, settings_of(state).governor.spike)
    if warning is not None:
        raised = AlertRaised(step=step, kind="loss", detail=warning, value=state.loss)
        state = yield from put(raised, "an alarming loss")
    for seed in sorted(state.live_seeds(), key=lambda each: each.stage not in IN_THE_HOST):
        if seed.stage is Stage.TRAINING and _host_goes_back(state):
            continue  # its gain would be measured on a host that is gone after this boundary
        judged: gates.Judgement | None
        if seed.name in failed:
            judged = gates.finite()
        elif warning is not None and seed.stage in IN_THE_HOST:
            judged = gates.governor(warning)
        else:
            judged = yield from gates.GATES[seed.stage](state, seed)
        if judged is not None:
            to, gate, evidence = judged
            state = yield from put(transition(seed, to, step, "gate", gate, evidence), f"the gate {gate}")
            if gate in ("verdict", "audit"):
                yield script.KernelJudged(seed, gate, evidence)
    return state


def _host_goes_back(state: RunState) -> bool:
    """Whether a seed was culled out of the host at this boundary."""
    last = (seed.transitions[-1] for seed in state.seeds.values() if seed.stage is Stage.CULLED)
    return any(each.step == state.step and Stage(each.from_stage) in IN_THE_HOST for each in last)


def _germinate(state: RunState) -> Script[RunState]:
    """Carry out the germination that was decided at the boundary before."""
    pending = state.pending
    if pending is None or pending.site is None or pending.blueprint is None or pending.seed is None:
        return state
    random = kernel_seed(state.seed, pending.seed)
    outcome: Compiled | NotCompiled = yield script.Compile(pending.site, pending.blueprint, pending.seed, random)
    if isinstance(outcome, NotCompiled):
        rejected = DecisionRejected(
            decision=pending.decision,
            step=state.step,
            reason="kernel",
            detail=outcome.reason,
            site=pending.site,
        )
        return (yield from put(rejected, "a germination whose kernel could not be compiled is rejected"))
    born = SeedTransitioned(
        site=pending.site,
        seed=pending.seed,
        blueprint=pending.blueprint,
        kernel=outcome.kernel,
        from_stage=Stage.DORMANT.value,
        to_stage=Stage.GERMINATED.value,
        step=state.step,
        cause="decision",
        gate=None,
        evidence=None,
    )
    return (yield from put(born, "a germination that was decided at the boundary before"))
