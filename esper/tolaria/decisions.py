"""Who decides at a boundary: the trainer's own policy, or one elsewhere that proposes over the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Protocol
from uuid import UUID

from esper.events import Event
from esper.events.runs import DecisionMade, DecisionRejected
from esper.settings import Decision as DecisionSettings
from esper.settings import Settings
from esper.tamiyo.observation import digest, observe
from esper.tamiyo.policies import newest
from esper.tamiyo.policy import Policy
from esper.tamiyo.remote import LONGEST_ISSUER, Objection, Questions, objection, questions
from esper.tamiyo.state import RunState
from esper.tolaria.inbox import Inbox, Proposal
from esper.tolaria.journal import Transaction

logger = logging.getLogger("esper")
ANSWERS = 100  # proposals rejected at a boundary, at most; what is left has its turn at the next


class Decider(Protocol):
    """Makes the decision that a boundary's transaction holds."""

    def reached(self, state: RunState) -> None:
        """BoundaryReached was folded into ``state``, and nothing after it."""

    def decide(self, tx: Transaction, step: int) -> DecisionMade | None:
        """Add the decision to ``tx``, or why there is none; returns it."""


class Local:
    """The trainer's own policy. It sees the run with all that its boundary has brought."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def reached(self, state: RunState) -> None:
        return

    def decide(self, tx: Transaction, step: int) -> DecisionMade | None:
        began = time.perf_counter()
        seen = observe(tx.state, self._policy.observation)
        made = self._policy.decide(seen)
        seconds = time.perf_counter() - began
        decision = DecisionMade(
            decision=f"{step}/1",
            step=step,
            policy=self._policy.name,
            version=self._policy.version,
            observation=digest(seen),
            action=made.action,
            site=made.site,
            blueprint=made.blueprint,
            seed=made.seed,
            propensity=made.propensity,
            alternatives=made.alternatives,
            reason=made.reason,
            measured={"seconds": seconds},
        )
        tx.add(decision)
        return decision


class Remote:
    """Takes what was proposed about the boundary ``lag`` boundaries ago, and answers each proposal once.

    It waits for that proposal, but no longer than ``wait`` seconds, and no more after ``misses`` misses in a row
    until a proposal arrives, whichever it is. Its clock and its memory of misses never say what is decided: what
    was decided, or missed, is on the log, where replay finds it. The inbox gives each proposal once; ``answered``
    are those that the log answers already.
    """

    def __init__(self, inbox: Inbox, asked: Questions, answered: set[UUID], settings: DecisionSettings) -> None:
        self._inbox, self._asked, self._answered, self._settings = inbox, asked, answered, settings
        self._held: dict[UUID, Proposal] = {}  # not answered yet, in the order of the log
        self._committed: dict[int, float] = {}  # by step, when a boundary's transaction was, in this process
        self._missed = 0
        self._heard = False  # since the last miss

    def reached(self, state: RunState) -> None:
        self._asked.reached(state)

    def decide(self, tx: Transaction, step: int) -> DecisionMade | None:
        due = self._asked.due()
        while (arrived := self._inbox.proposal(0)) is not None:
            self._hold(arrived)
        taken: DecisionMade | None = None
        settled = False
        if due is not None:
            began = time.monotonic()
            taken, settled = self._judge(tx, step, due, 0.0)
            while not settled and self._waits():
                arrived = self._inbox.proposal(began + self._settings.wait - time.monotonic())
                if arrived is None:
                    break
                self._hold(arrived)
                taken, settled = self._judge(tx, step, due, time.monotonic() - began)
            self._count(tx, step, due.step, settled)
            self._committed.pop(due.step, None)
        self._turn_away(tx, step, due.step if due is not None else 0, settled)
        tx.then = partial(self._note, step)
        return taken

    def _note(self, step: int) -> None:
        """In the journal's thread: the boundary is on the log."""
        self._committed[step] = time.monotonic()

    def _hold(self, proposal: Proposal) -> None:
        self._heard = True
        if proposal.id not in self._answered:
            self._held[proposal.id] = proposal

    def _waits(self) -> bool:
        return self._missed < self._settings.misses or self._heard

    def _judge(self, tx: Transaction, step: int, due: RunState, waited: float) -> tuple[DecisionMade | None, bool]:
        """Answer what was proposed about the boundary at ``due.step``, until one settles it: because it is taken, or
        is as it should be but the run has outgrown it."""
        for proposal in [each for each in self._held.values() if each.content.step == due.step]:
            content = proposal.content
            wrong = proposal.forged()
            objected = objection(content, due, tx.state) if wrong is None else Objection("invalid", wrong)
            if objected is None:
                return self._take(tx, step, proposal, waited), True
            self._reject(tx, step, proposal, *objected)
            if objected.reason == "stale":
                return None, True
        return None, False

    def _take(self, tx: Transaction, step: int, proposal: Proposal, waited: float) -> DecisionMade:
        content = proposal.content
        measured = {"waited": waited}
        if content.step in self._committed:  # else another process did that
            measured["latency"] = max(proposal.arrived - self._committed[content.step], 0.0)
        decision = DecisionMade(
            decision=f"{content.step}/1",
            step=step,
            policy=content.policy,
            version=content.version,
            observation=content.observation,
            action=content.action,
            site=content.site,
            blueprint=content.blueprint,
            seed=content.seed,
            propensity=content.propensity,
            alternatives=content.alternatives,
            reason=content.reason,
            issuer=content.issuer,
            measured=measured,
        )
        del self._held[proposal.id]
        tx.add(decision, causes=(proposal.id,))
        return decision

    def _reject(self, tx: Transaction, step: int, proposal: Proposal, reason: str, detail: str) -> None:
        content = proposal.content
        del self._held[proposal.id]
        known = tx.state.sites is not None and content.site in tx.state.sites.names
        tx.add(
            DecisionRejected(
                decision=f"{content.step}/1",
                step=step,
                reason=reason,
                detail=detail,
                site=content.site if known else None,
                issuer=content.issuer[:LONGEST_ISSUER],
            ),
            causes=(proposal.id,),
        )

    def _count(self, tx: Transaction, step: int, due: int, settled: bool) -> None:
        """A boundary about which nothing usable was proposed is a miss."""
        if settled:
            self._missed = 0
            return
        self._missed += 1
        self._heard = False
        detail = f"nothing usable was proposed about step {due} in time"
        tx.add(DecisionRejected(decision=f"{due}/1", step=step, reason="late", detail=detail, site=None))
        if self._missed == self._settings.misses:
            logger.warning(
                "run %s: no decision came for %d boundaries, so training goes on without waiting for any until one "
                "comes; see that a worker runs (`esper worker`)",
                tx.state.run_id,
                self._missed,
            )

    def _turn_away(self, tx: Transaction, step: int, due: int, settled: bool) -> None:
        """Reject what can no longer be taken, or never could; what is about a boundary to come is kept."""
        to_come = {each for each in self._asked.steps() if each > due}
        for proposal in [each for each in self._held.values() if each.content.step not in to_come][:ANSWERS]:
            about, forged = proposal.content.step, proposal.forged()
            if forged is not None:
                self._reject(tx, step, proposal, "invalid", forged)
            elif about == due and settled:
                self._reject(tx, step, proposal, "second", f"the decision about step {about} is made")
            elif 0 < about <= due:
                self._reject(tx, step, proposal, "late", f"the decision about step {about} was due before step {step}")
            else:
                self._reject(tx, step, proposal, "invalid", f"step {about} is no boundary that the run has reached")


def decider_for(run_id: str, events: Sequence[Event], inbox: Inbox, settings: Settings) -> Decider:
    """Who decides in a run that has had these events, from its first one on. Raises UsageError when its policy is
    not known."""
    policy, decision = newest(settings.policy.name), settings.decision
    if decision.where == "local":
        return Local(policy)
    return Remote(inbox, questions(run_id, events, decision.lag), answered_by(events), decision)


def answered_by(events: Iterable[Event]) -> set[UUID]:
    """The ids of the proposals that a run's events answer."""
    decided = (each for each in events if isinstance(each.content, DecisionMade | DecisionRejected))
    return {cause for each in decided for cause in each.envelope.causes}
