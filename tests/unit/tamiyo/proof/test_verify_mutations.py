"""Whatever the rules decide cannot be altered on a log: ``verify`` names the event."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any, get_args
from uuid import UUID

import pytest

from esper.events import Event, RunContent, runs
from esper.events.ids import run_event_id
from esper.kasmina.seed.stages import IN_THE_HOST, Stage
from esper.tamiyo.proof.verify import verify
from esper.tamiyo.rules.checkpoints import damaged_note
from esper.tamiyo.rules.inputs import INPUTS, SOMETIMES
from esper.tamiyo.run.fold import fold
from esper.tamiyo.run.state import RunState
from tests.support.logs.mutations import alterations, given, is_decided, kind_of, kinds, leaves, mutations
from tests.support.runs.histories import RUN, Simulation, changed, find, later, without

# By draws: short runs that have, together, every kind of event. ``test_the_logs_cover`` says when others must be found.
SEEDS = {
    "local": (170, 248, 43, 189, 3, 25, 29, 257, 202, 129, 165, 87),
    "remote": (122, 158, 91, 189, 35, 152, 228, 282, 284),
}
LOGS = [(where, seed) for where, seeds in SEEDS.items() for seed in seeds]


@cache
def log(where: str, seed: int) -> list[Event]:
    more = ("policy.seeds=30", "policy.embargo=20", "training.concurrent=2", f"decision.where={where}")
    made = Simulation(random.Random(seed), *more)
    made.named_afterwards = True
    return made.run(40, end=True).events


def logs() -> Iterator[list[Event]]:
    return (log(*each) for each in LOGS)


def contents(kind: type) -> Iterator[Any]:
    return (event.content for events in logs() for event in events if isinstance(event.content, kind))


def is_found(events: list[Event], place: int) -> bool:
    return any(finding.sequence == place + 1 for finding in verify(RUN, events).findings)


@pytest.mark.parametrize(("where", "seed"), LOGS)
def test_every_field_that_the_rules_decide_is_found_when_it_is_altered(where: str, seed: int) -> None:
    known = set().union(*(kinds(log(where, before)) for before in SEEDS[where][: SEEDS[where].index(seed)]))
    missed = [str(each) for each in mutations(log(where, seed), known) if not is_found(each.events, each.place)]
    assert missed == []


def test_every_field_of_every_event_is_an_input_or_was_altered() -> None:
    altered = {
        (type(event.content), field)
        for events in logs()
        for event in events
        for field, _ in alterations(event.content)
        if is_decided(event.content, field)
    }
    for kind in get_args(RunContent):
        for field in leaves(kind):
            parts = field.split(".")
            outer = {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
            is_input = outer & (INPUTS.get(kind, {}).keys() | OWN_TESTS.get(kind, set()))
            assert is_input or (kind, field) in altered, f"{kind.__name__}.{field} was never altered"


OWN_TESTS: dict[type, set[str]] = {
    runs.RunResumed: {"checkpoint"},
    runs.CheckpointCommitted: {"step", "reason"},
    runs.CheckpointRetired: {"step", "manifest"},
}
"""Fields that are an input often, with tests below for when they are not."""


def test_what_is_sometimes_an_input_is_in_the_table() -> None:
    found = {(kind, field) for kind in get_args(RunContent) for content in contents(kind) for field in given(content)}
    assert found == {(kind, field) for kind, names in SOMETIMES.items() for field in names}


def test_the_tables_name_fields_that_there_are() -> None:
    for table in (INPUTS, SOMETIMES):
        for kind, names in table.items():
            assert names.keys() <= set(leaves(kind))


def test_the_logs_cover_what_can_happen_to_a_run() -> None:
    for where in SEEDS:
        events = [event.content for seed in SEEDS[where] for event in log(where, seed)]
        moves = [each for each in events if isinstance(each, runs.SeedTransitioned)]
        assert {(each.from_stage, each.gate, each.to_stage) for each in moves if each.cause == "gate"} >= {
            ("GERMINATED", "birth", "TRAINING"),
            ("GERMINATED", "birth", "CULLED"),
            ("TRAINING", "verdict", "BLENDING"),
            ("TRAINING", "verdict", "CULLED"),
            ("TRAINING", "finite", "CULLED"),
            ("BLENDING", "finite", "CULLED"),
            ("BLENDING", "governor", "CULLED"),
            ("BLENDING", "blend", "HOLDING"),
            ("HOLDING", "governor", "CULLED"),
            ("HOLDING", "audit", "FOSSILISED"),
            ("HOLDING", "audit", "CULLED"),
        }
        assert {each.from_stage for each in moves if each.cause == "rollback"} == {"BLENDING", "HOLDING"}
        assert {each.from_stage for each in moves if each.cause == "command"} >= {"TRAINING", "BLENDING", "HOLDING"}
        assert {type(each) for each in events} == set(get_args(RunContent))
        rejected = {each.reason for each in events if isinstance(each, runs.DecisionRejected)}
        assert rejected == {"kernel"} | ({"late", "stale", "second", "invalid"} if where == "remote" else set())
        assert {each.kind for each in events if isinstance(each, runs.CommandAccepted)} >= {
            "cull",
            "pause",
            "stop",
            "tag",
            "rename",
        }
        assert {each.reason for each in events if isinstance(each, runs.RunPaused)} == {"a pause command", "Ctrl-C"}
        assert {each.cause[:40] for each in events if isinstance(each, runs.RunFailed)} <= {
            "the loss is not finite before the first ",
            "the loss is not finite, after 2 rollback",
        }


# Events that are gone, twice, or exchanged


def first_of_each_kind(events: list[Event]) -> Iterator[int]:
    seen: set[Any] = set()
    for place, event in enumerate(events[:-1]):
        if kind_of(event.content) not in seen:
            seen.add(kind_of(event.content))
            yield place


def comes_when_it_comes(content: Any) -> bool:
    """Whether the disk's speed, a person or a worker elsewhere brings it, and nothing follows from it at once."""
    rejected = isinstance(content, runs.CommandRejected | runs.DecisionRejected) and content.reason != "kernel"
    return isinstance(content, runs.CheckpointCommitted | runs.CheckpointRetired | runs.RunPaused) or rejected


WHOLE = [("local", 170), ("local", 3), ("local", 25), ("remote", 122), ("remote", 158)]


@pytest.mark.parametrize(("where", "seed"), WHOLE)
def test_an_event_that_is_gone_is_found(where: str, seed: int) -> None:
    events = log(where, seed)
    places = [place for place in first_of_each_kind(events) if not comes_when_it_comes(events[place].content)]
    missed = [place + 1 for place in places if verify(RUN, without(events, place)).ok]
    assert missed == []


@pytest.mark.parametrize(("where", "seed"), WHOLE)
def test_an_event_that_is_there_twice_is_found(where: str, seed: int) -> None:
    events = log(where, seed)
    missed = [
        place + 1
        for place in first_of_each_kind(events)
        if not isinstance(events[place].content, runs.CheckpointCommitted)
        and not is_found([*events[: place + 1], *later(events[place:])], place + 1)
    ]
    assert missed == []


@pytest.mark.parametrize(("where", "seed"), WHOLE)
def test_two_events_of_a_transaction_that_are_exchanged_are_found(where: str, seed: int) -> None:
    events, missed = log(where, seed), []
    for place in first_of_each_kind(events):
        one, other = events[place], events[place + 1]
        if comes_when_it_comes(one.content) or comes_when_it_comes(other.content):
            continue
        swapped = [replace(one, content=other.content), replace(other, content=one.content)]
        altered = [*events[:place], *swapped, *events[place + 2 :]]
        if not (is_found(altered, place) or is_found(altered, place + 1)):
            missed.append(place + 1)
    assert missed == []


def test_an_epoch_that_no_resume_begins_is_found() -> None:
    events = log("local", 43)
    place = find(events, runs.RunResumed)
    assert is_found(without(events, place), place)
    kept = replace(events[place].envelope, epoch=1, id=run_event_id(RUN, 1, place + 1))
    assert is_found([*events[:place], replace(events[place], envelope=kept), *events[place + 1 :]], place)


def test_a_signal_that_is_not_the_one_that_was_answered_is_found() -> None:
    events = log("local", 3)
    for kind in (runs.CommandAccepted, runs.SeedTransitioned):
        place = next(i for i, e in enumerate(events) if isinstance(e.content, kind) and e.envelope.causes)
        for causes in ((), (UUID(int=1),), (*events[place].envelope.causes, UUID(int=1))):
            envelope = replace(events[place].envelope, causes=causes)
            assert is_found([*events[:place], replace(events[place], envelope=envelope), *events[place + 1 :]], place)


def test_a_proposal_that_is_answered_twice_is_found() -> None:
    events = log("remote", 158)
    first, second = [i for i, e in enumerate(events) if isinstance(e.content, runs.DecisionMade)][:2]
    envelope = replace(events[second].envelope, causes=events[first].envelope.causes)
    assert is_found([*events[:second], replace(events[second], envelope=envelope), *events[second + 1 :]], second)


# What may stand between two transactions


def places(kind: type, **fields: Any) -> Iterator[tuple[list[Event], int]]:
    """Every event of that kind with these fields in all logs, and the log up to it."""
    for events in logs():
        for place, event in enumerate(events):
            content = event.content
            if isinstance(content, kind) and all(getattr(content, name) == value for name, value in fields.items()):
                yield events[: place + 1], place


@pytest.mark.parametrize("reason", ["blending", "fossilised", "rollback", "blending,steps", "fossilised,blending"])
def test_a_checkpoint_for_a_change_is_of_the_step_that_had_it(reason: str) -> None:
    found = False
    for events, place in places(runs.CheckpointCommitted, reason=reason):
        content: Any = events[place].content
        assert is_found(changed(events, place, step=content.step - 1), place)
        assert is_found(changed(events, place, step=content.step + 1), place)
        found = True
    assert found


@pytest.mark.parametrize("reason", ["blending", "fossilised", "rollback", "steps", "start", "", "for fun"])
def test_a_checkpoint_that_was_not_due_is_found(reason: str) -> None:
    events, place = next(places(runs.CheckpointCommitted, reason="epoch"))
    assert is_found(changed(events, place, reason=reason), place)


def test_a_checkpoint_that_is_due_after_many_steps_is_not_taken_earlier() -> None:
    events, place = next(places(runs.CheckpointCommitted, reason="steps"))
    content: Any = events[place].content
    before = max(c.content.step for c in events[:place] if isinstance(c.content, runs.CheckpointCommitted))
    assert content.step - before >= 40
    assert is_found(changed(events, place, step=before + 39), place)
    assert not is_found(changed(events, place, step=before + 40), place)


def test_a_checkpoint_includes_its_step_and_nothing_that_has_not_happened() -> None:
    for reason in ("epoch", "steps", "blending", "rollback", "pause"):
        events, place = next(places(runs.CheckpointCommitted, reason=reason))
        ended = [i + 1 for i, e in enumerate(events[:place]) if _is_of(e.content, events[place].content)]
        assert is_found(changed(events, place, sequence=place + 1), place)
        assert is_found(changed(events, place, sequence=max(ended) - 1), place)
        assert not is_found(changed(events, place, sequence=max(ended)), place)


def _is_of(content: Any, checkpoint: Any) -> bool:
    """Whether an event changed the model by the step of a checkpoint: it includes that, also if taken in a replay."""
    changing = runs.BoundaryReached | runs.RolledBack | runs.SeedTransitioned
    return isinstance(content, changing) and content.step <= checkpoint.step


def test_a_checkpoint_that_is_needed_is_not_retired() -> None:
    events, place = next(places(runs.CheckpointRetired))
    content: Any = events[place].content
    assert is_found(changed(events, place, step=content.step + 1), place)
    assert is_found(changed(events, place, manifest="other"), place)
    for events, place in places(runs.CheckpointRetired):
        kept = {c.step: c for c in (e.content for e in events[:place]) if isinstance(c, runs.CheckpointCommitted)}
        for needed in (0, max(kept)):
            assert is_found(changed(events, place, step=needed, manifest=kept[needed].manifest), place)


def test_a_checkpoint_to_which_a_cull_goes_back_is_not_retired() -> None:
    tried = 0
    for events, place in places(runs.CheckpointRetired):
        state = fold(RunState(RUN), events[:place])
        blending = [seed for seed in state.live_seeds() if seed.stage in IN_THE_HOST]
        began = [seed.entered(Stage.BLENDING).step for seed in blending]  # type: ignore[union-attr]
        for each in state.checkpoints:
            if each.step in began:
                assert is_found(changed(events, place, step=each.step, manifest=each.manifest), place)
                tried += 1
    assert tried


def test_a_pause_says_who_asked_for_it_and_has_its_checkpoint() -> None:
    for reason, other in (("Ctrl-C", "a pause command"), ("a pause command", "Ctrl-C")):
        events, place = next(places(runs.RunPaused, reason=reason))
        assert is_found(changed(events, place, reason=other), place)
        assert is_found(changed(events, place, reason="tired"), place)
        assert is_found(changed(events, place, step=events[place].content.step + 1), place)  # type: ignore[union-attr]


def test_a_pause_that_was_accepted_is_obeyed() -> None:
    where, place = next(
        (each, place)
        for each in LOGS
        for place, event in enumerate(log(*each))
        if isinstance(event.content, runs.RunPaused) and event.content.reason == "a pause command"
    )
    events = log(*where)
    (resumed,) = [i for i, e in enumerate(events[place : place + 2], place) if isinstance(e.content, runs.RunResumed)]
    on = next(i for i in range(resumed, len(events)) if isinstance(events[i].content, runs.BoundaryReached))
    first = events[place].envelope.epoch
    gone_on = [replace(e, envelope=replace(e.envelope, epoch=first)) for e in events[on:]]
    altered = [*events[:place], *later(gone_on, place - on)]
    (found,) = [each for each in verify(RUN, altered).findings if each.sequence == place + 1]
    assert "though a command to pause it was accepted" in found.what


def test_a_resume_begins_at_the_newest_checkpoint_that_is_whole() -> None:
    tried = 0
    for events, place in places(runs.RunResumed):
        steps = {each.step for each in fold(RunState(RUN), events[:place]).checkpoints}
        assert is_found(changed(events, place, checkpoint=max(steps) + 1), place)
        older = sorted(steps)[:-1]
        if older:
            assert is_found(changed(events, place, checkpoint=older[-1]), place)
            damaged = (damaged_note(max(steps)),)
            assert not is_found(changed(events, place, checkpoint=older[-1], notes=damaged), place)
            tried += 1
    assert tried


@pytest.mark.parametrize("setting", ["training.steps", "blending.steps", "blending.holding_steps"])
@pytest.mark.parametrize("where", ["local", "remote"])
def test_a_run_whose_settings_ask_for_longer_stages_than_it_had_is_found(where: str, setting: str) -> None:
    stage = {"training.steps": "BLENDING", "blending.steps": "HOLDING", "blending.holding_steps": "FOSSILISED"}[setting]
    seeds = [seed for seed in SEEDS[where] if _reaches(log(where, seed), stage)]
    events = log(where, seeds[0])
    place = find(events, runs.SeedTransitioned, to_stage=stage)
    report = verify(RUN, changed(events, 0, settings=longer(events, setting)))
    assert min(finding.sequence for finding in report.findings) <= place + 1


def _reaches(events: list[Event], stage: str) -> bool:
    return any(isinstance(e.content, runs.SeedTransitioned) and e.content.to_stage == stage for e in events)


def longer(events: list[Event], setting: str) -> str:
    """The run's settings, asking for 900 steps."""
    started: Any = events[0].content
    settings = json.loads(started.settings)
    section, name = setting.split(".")
    settings[section][name] = 900
    return json.dumps(settings)


def test_nobody_has_altered_these_logs() -> None:
    assert [each for each in LOGS if not verify(RUN, log(*each)).ok] == []
