"""Whatever is answered, whatever arrives and whatever fails: what the rules of a run make of it keeps its promises.

The invariants are said here in other words than the rules', from the log and its fold alone.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from esper.events import Event, runs
from esper.tamiyo.proof.verify import transactions, verify
from esper.tamiyo.rules import script
from esper.tamiyo.run.fold import apply
from esper.tamiyo.run.state import RunState, SeedState
from tests.support.runs.histories import FOLDS, RUN, History, Simulation

HOST = {"BLENDING", "HOLDING"}


class Watched(Simulation):
    """Also keeps each question, its answer, and where on the log it was asked."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.asked: list[tuple[int, Any, Any]] = []

    def _answer(self, question: Any) -> Any:
        answer = super()._answer(question)
        self.asked.append((len(self.history.events), question, answer))
        return answer


class Drawn(random.Random):
    """Draws from hypothesis, evenly; shrunk, nothing happens that has small odds."""

    def __init__(self, draw: st.DrawFn) -> None:
        super().__init__()
        self._draw = draw

    def random(self) -> float:
        return 1 - (self._draw(st.integers(0, 9999)) + 1) / 10_000

    def getrandbits(self, count: int, /) -> int:
        return self._draw(st.integers(0, 2**count - 1))


@st.composite
def simulations(draw: st.DrawFn) -> Watched:
    """A run of which hypothesis draws every answer, command, proposal, accident and pause, so that it can shrink."""
    assignments = draw(
        st.sampled_from(
            [
                ("policy.seeds=20",),
                ("policy.seeds=20", "training.concurrent=2", "policy.embargo=20"),
                ("training.steps=10", "blending.steps=70", "blending.holding_steps=50", "checkpoint.keep=1"),
                ("policy.seeds=20", "training.concurrent=2", "checkpoint.keep=1", "policy.exploration=0.4"),
                ("policy.seeds=20", "decision.where=remote"),
                ("policy.seeds=20", "decision.where=remote", "training.concurrent=3", "policy.exploration=0.4"),
            ]
        )
    )
    seed = draw(st.none() | st.integers(0, 10_000))
    made = Watched(Drawn(draw) if seed is None else random.Random(seed), *assignments)
    made.trouble = draw(st.sampled_from([1, 3, 6]))
    made.run(draw(st.integers(1, 40)), draw(st.booleans()))
    return made


def eventful(seed: int, *assignments: str) -> Watched:
    """A long run that has what drawn ones have seldom."""
    made = Watched(random.Random(seed), "policy.seeds=30", "policy.embargo=20", "training.concurrent=2", *assignments)
    made.run(40, True)
    return made


EVENTFUL = [
    *(eventful(seed) for seed in (3, 25, 29)),
    *(eventful(seed, "decision.where=remote") for seed in (122, 158)),
]


def for_any_run(test: Callable[[Watched], None]) -> Callable[[], None]:
    for run in EVENTFUL:
        test = example(run)(test)
    checked = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    return checked(given(simulations())(test))


@dataclass(frozen=True)
class Moment:
    """An event and the states before and after it."""

    before: RunState
    event: Event
    after: RunState

    @property
    def content(self) -> Any:
        return self.event.content


def moments(history: History) -> list[Moment]:
    found, state = [], RunState(RUN)
    for event in history.events:
        before, state = state, apply(state, event)
        found.append(Moment(before, event, state))
    return found


def together(history: History, kind: type) -> Iterator[list[Moment]]:
    """The transactions that an event of ``kind`` begins."""
    every = iter(moments(history))
    for events in transactions(history.events):
        part = [next(every) for _ in events]
        if isinstance(part[0].content, kind):
            yield part


def moves(part: list[Moment], **fields: Any) -> list[Moment]:
    """The transitions among them with these fields."""
    found = [each for each in part if isinstance(each.content, runs.SeedTransitioned)]
    return [each for each in found if all(getattr(each.content, name) == value for name, value in fields.items())]


def lengths(run: Watched) -> dict[str, int]:
    """The least steps of each stage."""
    settings = run.history.settings
    blending = settings.blending
    return {"TRAINING": settings.training.steps, "BLENDING": blending.steps, "HOLDING": blending.holding_steps}


def in_the_host(state: RunState) -> list[SeedState]:
    return [seed for seed in state.live_seeds() if seed.stage in HOST]


@for_any_run
def test_what_the_rules_decide_verifies(run: Watched) -> None:
    assert verify(RUN, run.history.events).findings == ()


@for_any_run
def test_nothing_is_asked_whose_answer_is_not_used(run: Watched) -> None:
    events = run.history.events
    for place, question, answer in run.asked:
        content: Any = events[place].content if place < len(events) else None
        match question:
            case script.Trial(seed, fold):
                (trial,) = [each for each in content.trials if each.seed == seed]
                assert (trial.fold, trial.mean, trial.s, trial.gradient_norm, trial.loss) == (fold, *answer)
            case script.BirthGradient(seed):
                assert (content.seed, content.gate, content.evidence.gradient_norm) == (seed, "birth", answer)
            case script.Verdict(seed, fold):
                assert (content.seed, content.gate, content.evidence.fold) == (seed, "verdict", fold)
                assert content.evidence.mean == answer.mean
            case script.Audit(seed, fold):
                assert (content.seed, content.gate) == (seed, "audit")
                assert content.evidence.fold == (fold if answer is not None else None)
            case script.Quantile():
                assert content.evidence.z == answer
            case script.Compile(_, _, seed):
                compiled = isinstance(answer, script.Compiled)
                assert isinstance(content, runs.SeedTransitioned if compiled else runs.DecisionRejected)
                assert (content.kernel if compiled else content.detail) == answer[0]
            case script.NextCommand() if answer is not None and answer.id not in commands(events[:place]):
                assert content.command == answer.id
            case script.PolicyNamed():
                assert isinstance(content, runs.DecisionMade)
            case script.NextProposal() | script.LeftProposal() if answer is not None:
                assert isinstance(content, runs.DecisionMade | runs.DecisionRejected)
                assert events[place].envelope.causes == (answer.id,)


def commands(events: list[Event]) -> list[UUID]:
    answers = runs.CommandAccepted | runs.CommandRejected
    return [event.content.command for event in events if isinstance(event.content, answers)]


@for_any_run
def test_each_signal_is_answered_once(run: Watched) -> None:
    answers = runs.CommandAccepted | runs.CommandRejected | runs.DecisionMade | runs.DecisionRejected
    causes = [e.envelope.causes for e in run.history.events if isinstance(e.content, answers) and e.envelope.causes]
    assert len(causes) == len(set(causes))
    sent = [answer.id for _, question, answer in run.asked if isinstance(question, script.NextCommand) and answer]
    assert commands(run.history.events) == list(dict.fromkeys(sent))


@for_any_run
def test_what_was_accepted_is_obeyed_and_nothing_else(run: Watched) -> None:
    every = moments(run.history)
    for now, then in pairwise([*every, None]):
        assert now is not None
        match now.content:
            case runs.CommandAccepted(kind="cull", seed=seed):
                assert now.before.seeds[seed].live
                assert then is not None
                assert (then.content.seed, then.content.to_stage, then.content.cause) == (seed, "CULLED", "command")
            case runs.CommandAccepted(kind="tag"):
                assert then is not None
                assert isinstance(then.content, runs.RunDescribed)
            case runs.CommandAccepted(kind=kind):
                assert kind in ("pause", "stop")
            case runs.SeedTransitioned(cause="command", seed=seed):
                assert now.event.envelope.causes
    for part in together(run.history, runs.BoundaryReached):
        kinds = {each.content.kind for each in part if isinstance(each.content, runs.CommandAccepted)}
        ended = isinstance(part[-1].content, runs.RunCancelled)
        assert ended == ("stop" in kinds)
        if ended:
            assert part[-1].event is run.history.events[-1]
        elif "pause" in kinds:
            after = run.history.events[part[-1].after.sequence :]
            stops = runs.BoundaryReached | runs.RolledBack | runs.RunPaused | runs.RunCompleted
            first: Any = next(event.content for event in after if isinstance(event.content, stops))
            assert (type(first), first.step, first.reason) == (runs.RunPaused, part[-1].after.step, "a pause command")


@for_any_run
def test_one_seed_at_most_blends_or_holds(run: Watched) -> None:
    for each in moments(run.history):
        assert len(in_the_host(each.after)) <= 1


@for_any_run
def test_a_seed_is_measured_at_each_boundary_and_never_on_the_next_verdicts_fold(run: Watched) -> None:
    for reached, *_ in together(run.history, runs.BoundaryReached):
        state, content = reached.before, reached.content
        due = [s.name for s in state.live_seeds() if s.stage == "TRAINING" and s.name not in content.failed]
        assert [trial.seed for trial in content.trials] == due
        for trial in content.trials:
            assert trial.fold != state.gate_uses % FOLDS
            assert trial.n == 400 // FOLDS


@for_any_run
def test_folds_are_used_in_turn_and_the_audits_is_the_one_that_was_reserved(run: Watched) -> None:
    used, reserved = [], {}
    for each in moves(moments(run.history)):
        move = each.content
        if move.gate == "verdict":
            used.append(move.evidence.fold)
            assert (move.evidence.audit_fold is None) == (move.to_stage == "CULLED")
            if move.to_stage == "BLENDING":
                used.append(move.evidence.audit_fold)
                reserved[move.seed] = move.evidence.audit_fold
        elif move.gate == "audit" and move.evidence.fold is not None:
            assert move.evidence.fold == reserved[move.seed]
    assert used == [number % FOLDS for number in range(len(used))]


@for_any_run
def test_the_levels_of_all_verdicts_fall_as_their_number_grows(run: Watched) -> None:
    z = [each.content.evidence.z for each in moves(moments(run.history), gate="verdict")]
    assert z == sorted(set(z))


@for_any_run
def test_a_verdict_has_its_steps_its_measurements_and_a_host_that_stays(run: Watched) -> None:
    for part in together(run.history, runs.BoundaryReached):
        left = [each.event.envelope.sequence for each in moves(part) if each.content.from_stage in HOST]
        culled = [each for each in moves(part, to_stage="CULLED") if each.content.from_stage in HOST]
        for each in moves(part, gate="verdict"):
            seed = each.before.seeds[each.content.seed]
            assert seed.stage == "TRAINING"
            assert each.content.step - seed.since >= lengths(run)["TRAINING"]
            assert len(seed.trials) >= 2
            assert in_the_host(each.before) == []
            assert all(sequence < each.event.envelope.sequence for sequence in left)
            assert culled == []


@for_any_run
def test_a_gate_is_asked_at_the_first_boundary_at_which_its_time_has_come(run: Watched) -> None:
    least = lengths(run)
    for part in together(run.history, runs.BoundaryReached):
        end = part[-1].after
        host_back = [each for each in moves(part, to_stage="CULLED") if each.content.from_stage in HOST]
        for seed in end.live_seeds():
            waits = end.step - seed.since
            if seed.stage == "GERMINATED":
                assert waits == 0
            elif seed.stage != "TRAINING":
                assert waits < least[seed.stage]
            elif waits >= least[seed.stage] and len(seed.trials) >= 2:
                assert in_the_host(end) or host_back


@for_any_run
def test_a_stage_in_the_host_has_its_whole_length(run: Watched) -> None:
    for each in moves(moments(run.history)):
        if each.content.gate in ("blend", "audit"):
            seed = each.before.seeds[each.content.seed]
            assert each.content.step - seed.since >= lengths(run)[seed.stage]


@for_any_run
def test_a_seed_that_failed_is_culled_and_an_alarm_culls_what_is_in_the_host(run: Watched) -> None:
    for part in together(run.history, runs.BoundaryReached):
        end, failed = part[-1].after, part[0].content.failed
        host_back = [each for each in moves(part, to_stage="CULLED") if each.content.from_stage in HOST]
        for name in failed:
            assert not end.seeds[name].live or (end.seeds[name].stage == "TRAINING" and host_back)
        alarmed = [each for each in part if isinstance(each.content, runs.AlertRaised)]
        if alarmed:
            before = {seed.name for seed in in_the_host(alarmed[0].before)}
            assert all(end.seeds[name].stage == "CULLED" for name in before)
        assert {each.content.seed for each in moves(part, gate="finite")} <= set(failed)
        assert alarmed or not moves(part, gate="governor")


@for_any_run
def test_every_boundary_has_one_decision_or_one_miss(run: Watched) -> None:
    remote = run.history.settings.decision.where == "remote"
    seen: list[int] = []
    for part in together(run.history, runs.BoundaryReached):
        made = [each.content for each in part if isinstance(each.content, runs.DecisionMade)]
        rejected = [each.content for each in part if isinstance(each.content, runs.DecisionRejected)]
        settled = [each for each in rejected if each.reason == "stale" or (each.reason, each.issuer) == ("late", None)]
        step = part[0].content.step
        if remote:
            about = [f"{seen[-1]}/1"] if seen else []
            assert [each.decision for each in made + settled] == about
            assert all(each.issuer is not None for each in made)
        else:
            assert [each.decision for each in made] == [f"{step}/1"]
            assert [each.reason for each in rejected] == ["kernel"] * len(rejected)
        seen.append(step)


@for_any_run
def test_a_germination_is_carried_out_at_the_next_boundary_or_gone_with_a_rollback(run: Watched) -> None:
    for part in together(run.history, runs.BoundaryReached):
        pending = part[0].before.pending
        born = moves(part, from_stage="DORMANT")
        kernels = [each.content for each in part if getattr(each.content, "reason", None) == "kernel"]
        if pending is None:
            assert born == kernels == []
        else:
            (answer,) = [each.content for each in born] + kernels
            assert answer.site == pending.site
            if born:
                assert (answer.seed, answer.blueprint, answer.cause) == (pending.seed, pending.blueprint, "decision")
        decided = [each.content for each in part if isinstance(each.content, runs.DecisionMade)]
        wanted = [each for each in decided if each.action == "germinate"]
        assert ([part[-1].after.pending] if part[-1].after.pending else []) == wanted
    for back, *_ in together(run.history, runs.RolledBack):
        pending = back.before.pending
        kept = pending is not None and pending.step <= back.content.to_step
        assert back.after.pending == (pending if kept else None)


@for_any_run
def test_no_name_is_used_twice_and_an_embargo_is_kept(run: Watched) -> None:
    embargo = run.history.settings.policy.embargo
    names = Counter(each.content.seed for each in moves(moments(run.history), from_stage="DORMANT"))
    assert set(names.values()) <= {1}
    for each in moments(run.history):
        made = each.content
        if isinstance(made, runs.DecisionMade) and made.action == "germinate":
            there = [seed for seed in each.before.seeds.values() if seed.site == made.site]
            assert not any(seed.live for seed in there)
            assert all(made.step - seed.since >= embargo for seed in there if seed.stage == "CULLED")


@for_any_run
def test_a_rollback_goes_to_the_newest_checkpoint_that_was_due_and_keeps_nothing_younger(run: Watched) -> None:
    for part in together(run.history, runs.RolledBack):
        back = part[0]
        to = back.content.to_step
        assert to == max(each.step for each in back.before.checkpoints if each.reason != "pause")
        younger = [name for name, seed in back.before.seeds.items() if seed.transitions[0].step > to]
        assert list(back.content.removed) == younger
        assert not set(younger) & back.after.seeds.keys()
        for seed in back.after.seeds.values():
            assert all(move.step <= to for move in seed.transitions)
            assert all(step <= to for step, _ in seed.trials)
        assert [each.content.seed for each in part[1:]] == [seed.name for seed in in_the_host(back.after)]
        assert in_the_host(part[-1].after) == []
        for seed in in_the_host(back.after):  # the cull goes back to where it began to blend
            began = seed.entered("BLENDING")  # type: ignore[arg-type]
            assert began is not None
            assert began.step in {each.step for each in back.after.checkpoints}


@for_any_run
def test_the_governor_gives_up_after_two_rollbacks_in_a_row_or_without_an_update(run: Watched) -> None:
    window = run.history.settings.governor.window
    for each in moments(run.history):
        if isinstance(each.content, runs.RolledBack | runs.RunFailed):
            recent = [step for step in each.before.rollbacks if each.content.step - step < window]
            if isinstance(each.content, runs.RolledBack):
                assert len(recent) < 2
            else:
                assert len(recent) >= 2 or "before the first update" in each.content.cause
                assert each.event is run.history.events[-1]


@for_any_run
def test_no_checkpoint_is_retired_that_a_recovery_could_need(run: Watched) -> None:
    for each in moments(run.history):
        there = {checkpoint.step for checkpoint in each.after.checkpoints}
        match each.content:
            case runs.CheckpointRetired(step=gone):
                assert gone not in {seed.entered("BLENDING").step for seed in in_the_host(each.before)}  # type: ignore[union-attr, arg-type]
                due = [checkpoint.step for checkpoint in each.before.checkpoints if checkpoint.reason != "pause"]
                assert {0, max(due), max(c.step for c in each.before.checkpoints)} <= there
            case runs.RolledBack(to_step=step) | runs.RunResumed(checkpoint=step):
                assert step in there
            case runs.SeedTransitioned(from_stage=stage, to_stage="CULLED", seed=name) if stage in HOST:
                assert each.before.seeds[name].entered("BLENDING").step in there  # type: ignore[union-attr, arg-type]


@for_any_run
def test_the_end_counts_the_seeds(run: Watched) -> None:
    end = moments(run.history)[-1]
    if isinstance(end.content, runs.RunCompleted):
        assert end.content.seeds == Counter(str(seed.stage) for seed in end.after.seeds.values())
