"""Decides a run again from its log: the rules are carried out as by a trainer, with the answers that the log holds.

What does not agree is a finding. The model's own numbers (``rules.inputs``) cannot be computed without training;
re-running steps compares their digests (``esper resume``). It covers ``esper.runs``.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, TypeVar
from uuid import UUID

from esper.errors import SequenceGap
from esper.events import Event, runs
from esper.events.ids import run_event_id
from esper.kasmina.seed.stages import IllegalMove, Stage
from esper.tamiyo.policy.policies import registered
from esper.tamiyo.policy.remote import OpenDecisions
from esper.tamiyo.proof.logged import POLICYS_OWN, LoggedAnswers, NotOnTheLog
from esper.tamiyo.rules import decider
from esper.tamiyo.rules.between import Between
from esper.tamiyo.rules.inputs import INPUTS
from esper.tamiyo.rules.script import KernelJudged, KernelWanted, Put, Script
from esper.tamiyo.run.fold import apply
from esper.tamiyo.run.state import ENDED, RunState, settings_of

T = TypeVar("T")
MEASURED = frozenset(("measured",))
GIVEN = {kind: MEASURED.union(names) for kind, names in INPUTS.items()}
"""The fields of a class that no rule decides."""
IMPOSSIBLE = (ValueError, LookupError, ArithmeticError, TypeError, AttributeError)
"""What values raise that a schema allows and no trainer writes, such as parallel arrays of unequal lengths."""
UNCHECKED = "what follows was not checked"
LONGEST = 400  # characters of a value in a finding


@dataclass(frozen=True, slots=True)
class Deviation:
    """Something in event ``sequence`` that does not follow from what came before it, and the rule that it breaks."""

    sequence: int
    rule: str
    what: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What was checked: how many events, observations, decisions, verdicts, audits and transitions were computed
    again, and every finding. ``unknown_policy`` counts decisions that this version cannot make again. ``cut`` is the
    first event of the last transaction if that lacks events, which no trainer leaves, for it writes all at once."""

    findings: tuple[Deviation, ...]
    counts: dict[str, int]
    cut: int | None = None

    @property
    def ok(self) -> bool:
        """Whether all that was checked follows from the rules."""
        return not self.findings


def verify(run_id: str, events: Iterable[Event]) -> Verification:
    """Check the run's ``events``, which are in order. Stops at one that cannot be folded.

    Raises RunUnusable for a run whose rules this version does not know.
    """
    found, first = _Verification(run_id), 1
    for transaction in transactions(events):
        found.lacks, first = False, found.state.sequence + 1
        try:
            found.take(transaction)
        except (SequenceGap, IllegalMove) as error:
            found.find("what can be folded", f"{error}; {UNCHECKED}")
            break
        except IMPOSSIBLE as error:
            said = f"{type(error).__name__}: {error}"
            found.find("what can be computed with", f"its values are none that a run can have ({said}); {UNCHECKED}")
            break
    return Verification(tuple(found.findings), dict(found.counts), first if found.lacks else None)


def transactions(events: Iterable[Event]) -> Iterator[deque[Event]]:
    """The events of a run, those together that the rules decide together: a boundary's, a rollback's, or one alone."""
    found: deque[Event] = deque()
    over = False
    for event in events:
        starts = _STARTS | _AFTERWARDS if over else _STARTS
        if found and isinstance(event.content, starts):
            yield found
            found = deque()
        found.append(event)
        over = over or isinstance(event.content, _ENDS)
    if found:
        yield found


_STARTS = (
    runs.RunStarted
    | runs.RunResumed
    | runs.MetricsLogged
    | runs.RunPaused
    | runs.RunCompleted
    | runs.RunFailed
    | runs.BoundaryReached
    | runs.RolledBack
    | runs.CheckpointCommitted
    | runs.CheckpointRetired
)
_ENDS = runs.RunCompleted | runs.RunFailed | runs.RunCancelled
_AFTERWARDS = runs.CommandAccepted | runs.CommandRejected
_ANSWERS = (runs.CommandAccepted, runs.CommandRejected, runs.DecisionMade, runs.DecisionRejected)
_COUNTED = ("events", "transitions", "observations", "decisions", "verdicts", "audits", "unknown_policy")


class _Verification:
    """One run's, as far as it has come: ``state``. ``lacks`` says whether the last transaction lacks events."""

    def __init__(self, run_id: str) -> None:
        self.findings: list[Deviation] = []
        self.counts = Counter(dict.fromkeys(_COUNTED, 0))
        self.state = RunState(run_id)
        self._between = Between()
        self._asked: OpenDecisions | None = None
        self._answered: set[UUID] = set()  # signals
        self.lacks = False
        self._last: object = None  # the content of the last event

    def find(self, rule: str, what: str) -> None:
        """Something is wrong with the event after ``state``."""
        self.findings.append(Deviation(self.state.sequence + 1, rule, what))

    def take(self, events: deque[Event]) -> None:
        """Check the events of one transaction; raises SequenceGap or IllegalMove at one that cannot be folded."""
        state, first = self.state, events[0].content
        for fault in self._between.faults(state, events[0]):
            self.find(*fault)
        contents = [event.content for event in events]
        match first:
            case runs.BoundaryReached():
                arrival = replace(first, failed=_failed(state, first, contents))
                answers = LoggedAnswers(events, first, self._asked)
                wish = self._carry_out(decider.boundary(state, arrival, self._asked), answers, events)
                self._between.note(self.state, contents, wish)
            case runs.RolledBack():
                self._carry_out(decider.rollback(state, first.step, updated=True), LoggedAnswers(events), events)
                self._between.note(self.state, contents, None)
            case runs.RunFailed():
                updated = first.cause != decider.NEVER_UPDATED or state.digest != ""  # a boundary comes after updates
                self._carry_out(decider.rollback(state, first.step, updated=updated), LoggedAnswers(events), events)
            case runs.RunCompleted():
                self._carry_out(decider.completion(state, first), LoggedAnswers(events), events)
            case runs.CommandAccepted() | runs.CommandRejected() if state.status in ENDED:
                self._carry_out(decider.afterwards(state), LoggedAnswers(events), events)
            case _:
                self._fold(events.popleft())
                if isinstance(first, runs.RunStarted):
                    self._begin()
                self._uncalled(events)

    def _begin(self) -> None:
        decider.check_rules(self.state)
        decision = settings_of(self.state).decision
        self._asked = OpenDecisions(decision.lag) if decision.where == "remote" else None

    def _carry_out(self, rules: Script[T], answers: LoggedAnswers, events: deque[Event]) -> T | None:
        """Compare ``events`` with what ``rules`` put. After the first that is another the rest is folded unchecked."""
        answer: Any = None
        try:
            while True:
                step = rules.send(answer)
                if isinstance(step, Put):
                    answer = self._compared(step, events, answers)
                elif isinstance(step, KernelWanted | KernelJudged):
                    answer = None
                else:
                    answer = answers.answer(step)
        except StopIteration as end:
            self._uncalled(events)
            returned: T = end.value
            return returned
        except NotOnTheLog as error:
            self.find(error.rule, str(error))
            self.lacks = not events
            while events:
                self._fold(events.popleft())
            return None

    def _compared(self, put: Put, events: deque[Event], answers: LoggedAnswers) -> RunState:
        """The state after the next event, which should be the one of ``put``."""
        kind = type(put.content)
        if not events:
            raise NotOnTheLog(put.rule, f"a {kind.__name__} is missing here")
        event = events[0]
        if type(event.content) is not kind:
            raise NotOnTheLog(put.rule, f"it is {type(event.content).__name__}, where {kind.__name__} had to come")
        ignored = POLICYS_OWN if answers.unknown else frozenset[str]()
        for what in _differences(event.content, put.content, GIVEN.get(kind, MEASURED) | ignored):
            self.find(put.rule, what)
        if event.envelope.causes != put.causes:
            self.find(put.rule, f"it was caused by {_listed(event.envelope.causes)}, not by {_listed(put.causes)}")
        if put.causes and isinstance(event.content, _ANSWERS):
            if not self._answered.isdisjoint(put.causes):
                self.find("a signal is answered once", f"signal {_listed(put.causes)} was answered before")
            self._answered.update(put.causes)
        if answers.unknown:
            self._unknown(event.content)
        self._count(event.content, answers.unknown)
        answers.unknown = False
        self._fold(events.popleft())
        return self.state

    def _unknown(self, made: Any) -> None:
        there = ", ".join(f"{name} {version}" for name, version in registered())
        what = f"policy {made.policy} {made.version} is not known here, so its decision cannot be made again"
        self.find("a policy's decision can be made again", f"{what}; known: {there}; verify where it is installed")

    def _uncalled(self, events: deque[Event]) -> None:
        """Events that no rule has put."""
        while events:
            self.find(
                "what a boundary brings", f"it is {type(events[0].content).__name__}, which nothing calls for here"
            )
            self._fold(events.popleft())

    def _fold(self, event: Event) -> None:
        for what in _identity(self.state, event, self._last):
            self.find("who writes a run, and in what order", what)
        self.state, self._last = apply(self.state, event), event.content
        self.counts["events"] += 1

    def _count(self, content: object, unknown: bool) -> None:
        if isinstance(content, runs.DecisionMade):
            self.counts["observations"] += not unknown
            self.counts["unknown_policy" if unknown else "decisions"] += 1
        elif isinstance(content, runs.SeedTransitioned):
            self.counts["transitions"] += 1
            self.counts["verdicts"] += content.gate == "verdict"
            self.counts["audits"] += content.gate == "audit"


def _failed(state: RunState, arrival: runs.BoundaryReached, contents: list[Any]) -> tuple[str, ...]:
    """The seeds that had failed; where that was not written, those that were not measured, or culled for it."""
    if arrival.failed is not None:
        return arrival.failed
    measured = {trial.seed for trial in arrival.trials}
    unmeasured = [s.name for s in state.live_seeds() if s.stage is Stage.TRAINING and s.name not in measured]
    culled = [c.seed for c in contents if isinstance(c, runs.SeedTransitioned) and c.gate == "finite"]
    return tuple(dict.fromkeys((*unmeasured, *culled)))


def _identity(state: RunState, event: Event, last: object) -> Iterator[str]:
    envelope = event.envelope
    if envelope.epoch is None or envelope.sequence is None:
        yield "it has no epoch and no sequence number"
        return
    if envelope.id != run_event_id(state.run_id, envelope.epoch, envelope.sequence):
        yield f"its id is {envelope.id}, which is not that of event {envelope.sequence} of epoch {envelope.epoch}"
    if envelope.epoch < state.writer_epoch:
        yield f"its epoch is {envelope.epoch}, after one of epoch {state.writer_epoch}"
    resumed = isinstance(event.content, runs.RunResumed)
    if resumed and isinstance(last, runs.RunResumed) and last.reopened:
        return  # the resume's writer was lost before its first event
    if state.status in ENDED and isinstance(event.content, _AFTERWARDS):
        return  # by a command, as the run's writer
    if state.sequence and (envelope.epoch > state.writer_epoch) is not resumed:
        begins = "which no RunResumed begins" if envelope.epoch > state.writer_epoch else "in which the run went on"
        yield f"its epoch is {envelope.epoch}, {begins}"


def _differences(
    logged: Any, computed: Any, ignored: AbstractSet[str] = frozenset(), within: str = ""
) -> Iterator[str]:
    """The fields, and those of their parts, in which two contents of one class differ, in words."""
    for name in type(logged).__dataclass_fields__:
        if name not in ignored:
            yield from different(getattr(logged, name), getattr(computed, name), f"{within}{name}")


def different(logged: Any, computed: Any, name: str) -> Iterator[str]:
    """In words, where the values that a log holds and that were computed differ; two that are no number do not."""
    if logged is computed or (type(logged) is not float and logged == computed):
        return
    if is_dataclass(logged) and type(logged) is type(computed):
        yield from _differences(logged, computed, within=f"{name}.")
    elif isinstance(logged, tuple) and isinstance(computed, tuple) and len(logged) == len(computed):
        for place, (then, now) in enumerate(zip(logged, computed, strict=True)):
            yield from different(then, now, f"{name}[{place}]")
    elif logged != computed and not (logged != logged and computed != computed):  # NaN is what was measured
        yield f"{name} is {_short(logged)}, computed {_short(computed)}"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _listed(causes: Iterable[UUID]) -> str:
    return ", ".join(map(str, causes)) or "nothing"
