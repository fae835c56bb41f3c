"""Decisions of a policy outside of the trainer: what it proposes about a boundary, and whether that may be taken. Pure.

The policy sees the run as it is when BoundaryReached has been folded and nothing after it: the trainer's answers and
verdicts at that boundary come in the same transaction, but a reader cannot know where a transaction ends. What it
proposes is answered ``decision.lag`` boundaries later. By then the run may have outgrown it.

A proposal made again is the same record, byte for byte: its issuer, its nonce, its time (that of BoundaryReached) and
its writer depend on nothing but the run's event.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

from esper.events import Event, runs
from esper.events.signals import DecisionProposed
from esper.log.port import Record
from esper.log.records import signal_record
from esper.tamiyo.policy.observation import Observation, digest, observe
from esper.tamiyo.policy.policies import known, newest, registered
from esper.tamiyo.policy.policy import Policy
from esper.tamiyo.run.fold import fold
from esper.tamiyo.run.state import RunState, settings_of

LONGEST_REASON = 4000  # characters that a run takes over from a proposal
MOST_ALTERNATIVES = 10_000


def proposals(state: RunState, event: Event) -> tuple[DecisionProposed, ...]:
    """What the run's policy proposes after ``event``, the last one folded into ``state``: something at every boundary
    of a run that asks for it, else nothing. Raises UsageError when the policy is not known here."""
    if not isinstance(event.content, runs.BoundaryReached) or settings_of(state).decision.where != "remote":
        return ()
    return (proposed(state, newest(settings_of(state).policy.name)),)


def proposed(state: RunState, policy: Policy) -> DecisionProposed:
    """What ``policy`` proposes about the boundary that ``state`` has just reached."""
    seen = observe(state, policy.observation)
    made = policy.decide(seen)
    return DecisionProposed(
        step=state.step,
        policy=policy.name,
        version=policy.version,
        observation=digest(seen),
        action=made.action,
        site=made.site,
        blueprint=made.blueprint,
        seed=made.seed,
        propensity=made.propensity,
        alternatives=made.alternatives,
        reason=made.reason,
        issuer=f"tamiyo/{policy.name}/{policy.version}",
        nonce=str(state.step),
    )


def signal_of(run_id: str, event: Event, proposal: DecisionProposed) -> Record:
    """The record of what was proposed after ``event``; the same bytes whoever makes it, whenever."""
    envelope = event.envelope
    return signal_record(run_id, proposal, writer=proposal.issuer, time=envelope.time, causes=(envelope.id,))


class OpenDecisions:
    """The boundaries whose decision is still to come, and the one that is due at the newest."""

    def __init__(self, lag: int) -> None:
        self._seen: deque[RunState] = deque(maxlen=lag + 1)

    def reached(self, state: RunState) -> None:
        """The run is at its next boundary; ``state`` is as the policy sees it."""
        self._seen.append(state)

    def due(self) -> RunState | None:
        """What the policy saw ``lag`` boundaries ago; None at a run's first ones."""
        return self._seen[0] if len(self._seen) == self._seen.maxlen else None

    def steps(self) -> tuple[int, ...]:
        """The steps of the boundaries asked about, the one that is due included."""
        return tuple(state.step for state in self._seen)


def questions(run_id: str, events: Sequence[Event], lag: int) -> OpenDecisions:
    """The questions that are open after ``events``, a run from its first event on."""
    asked = OpenDecisions(lag)
    ends = [place + 1 for place, event in enumerate(events) if isinstance(event.content, runs.BoundaryReached)]
    state = RunState(run_id)
    for begin, end in pairwise((0, *ends[-lag:])):
        state = fold(state, events[begin:end])
        asked.reached(state)
    return asked


class Objection(NamedTuple):
    """Why a proposal is not taken."""

    reason: Literal["stale", "invalid"]
    detail: str


def objection(proposal: DecisionProposed, due: RunState, now: RunState) -> Objection | None:
    """What speaks against taking a proposal about a boundary where the policy saw the run as in ``due``.

    It must be by a version that we know of the run's policy, about what that version observes there, of an action
    allowed there, with odds that are odds (``invalid``); and what it asks for must still be possible (``stale``).
    Whether the policy would really choose so is left to ``verify``.
    """
    policy = known(proposal.policy, proposal.version)
    name = settings_of(now).policy.name
    if policy is None or policy.name != name:
        return Objection("invalid", _stranger(proposal, name))
    seen = observe(due, policy.observation)
    wrong = _unfit(proposal) or _mistaken(proposal, seen) or _bad_odds(proposal, seen)
    if wrong is not None:
        return Objection("invalid", wrong)
    if proposal.action == "germinate":
        present = observe(now, policy.observation)
        if not _allowed(present, *_choice(proposal)):
            return Objection("stale", _outgrown(proposal, now))
        if proposal.seed != _seed(present, proposal.site):
            return Objection("stale", f"the next seed at {proposal.site} is {_seed(present, proposal.site)} by now")
    return None


_Choice = tuple[str, str | None, str | None]


def _choice(chosen: DecisionProposed | runs.Alternative) -> _Choice:
    return chosen.action, chosen.site, chosen.blueprint


def _stranger(proposal: DecisionProposed, name: str) -> str:
    if proposal.policy != name:
        return f"it is by policy {_short(proposal.policy)}, but the run's is {name} (policy.name)"
    there = ", ".join(policy.version for policy in registered().values() if policy.name == name)
    return f"version {_short(proposal.version)} of policy {name} is not known here; known: {there}"


def _unfit(proposal: DecisionProposed) -> str | None:
    if len(proposal.reason) > LONGEST_REASON:
        return f"its reason is longer than {LONGEST_REASON} characters"
    if len(proposal.alternatives) > MOST_ALTERNATIVES:
        return f"it lists more than {MOST_ALTERNATIVES} alternatives"
    return None


def _mistaken(proposal: DecisionProposed, seen: Observation) -> str | None:
    ours = digest(seen)
    if proposal.observation != ours:
        return f"it rests on observation {_short(proposal.observation)}, but boundary {seen.step} gives {ours[:12]}"
    if not _allowed(seen, *_choice(proposal)):
        return f"{_place(proposal)} was not allowed at boundary {seen.step}"
    named = _seed(seen, proposal.site)
    if proposal.seed != named:
        return f"it names seed {_short(proposal.seed or 'none')}, where boundary {seen.step} has {named or 'none'}"
    return None


def _bad_odds(proposal: DecisionProposed, seen: Observation) -> str | None:
    odds = {_choice(each): each.propensity for each in proposal.alternatives}
    if len(odds) != len(proposal.alternatives):
        return "an action is listed twice among the alternatives"
    if any(not _allowed(seen, *choice) for choice in odds):
        return f"an alternative was not allowed at boundary {seen.step}"
    if not all(math.isfinite(each.score) and 0 <= each.propensity <= 1 for each in proposal.alternatives):
        return "a score is not finite, or a propensity not a probability"
    if not math.isclose(sum(odds.values()), 1, abs_tol=1e-6):
        return f"the propensities add up to {sum(odds.values()):.6g}, not 1"
    if not proposal.propensity > 0 or odds.get(_choice(proposal)) != proposal.propensity:
        return f"propensity {proposal.propensity:.6g} is not that of its alternative {_place(proposal)}"
    return None


def _allowed(seen: Observation, action: str, site: str | None, blueprint: str | None) -> bool:
    if action == "wait":
        return site is None and blueprint is None
    options = next((each.options for each in seen.candidates if each.site == site), ())
    return action == "germinate" and any(option.blueprint == blueprint for option in options)


def _seed(seen: Observation, site: str | None) -> str | None:
    """The name of the next seed at ``site``; None where none may be born."""
    return next((each.seed for each in seen.candidates if each.site == site), None)


def _outgrown(proposal: DecisionProposed, now: RunState) -> str:
    if now.pending is not None:
        return f"seed {now.pending.seed} was decided meanwhile and waits to be born"
    if any(seed.site == proposal.site for seed in now.live_seeds()):
        return f"site {proposal.site} is occupied by now"
    return f"the run's rules no longer allow a seed of {proposal.blueprint} at {proposal.site}"


def _place(chosen: DecisionProposed) -> str:
    named = [_short(part) for part in (chosen.action, chosen.blueprint, chosen.site) if part is not None]
    return " ".join(named)


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:60]}..."
