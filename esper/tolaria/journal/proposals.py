"""The proposals that have come to a run whose policy is elsewhere, and how long a boundary waits for one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from uuid import UUID

from esper.events import Event
from esper.events.runs import DecisionMade, DecisionRejected
from esper.settings import DecisionSettings
from esper.tamiyo.rules.script import Offer
from esper.tolaria.journal.inbox import Inbox, Proposal

logger = logging.getLogger("esper")


class Proposals:
    """Gives each proposal once, in the order of the log.

    A boundary waits for the one that it needs, but no longer than ``wait`` seconds, and no more after ``misses`` misses
    in a row until a proposal arrives, whichever it is. Its clock and its memory of misses never say what is decided:
    what was decided, or missed, is on the log, where replay finds it. ``answered`` are those that the log answers
    already, ``sites`` the names of the run's sites.
    """

    def __init__(
        self, inbox: Inbox, run_id: str, answered: set[UUID], sites: frozenset[str], settings: DecisionSettings
    ) -> None:
        self._inbox, self._run_id, self._answered, self._settings = inbox, run_id, answered, settings
        self._sites = sites
        self._held: dict[UUID, Proposal] = {}  # not answered yet, in the order of the log
        self._given: Proposal | None = None  # the last one that was
        self._committed: dict[int, float] = {}  # by step, when a boundary's transaction was, in this process
        self._asked = 0  # the boundary about which one was asked for last
        self._began: float | None = None  # when this boundary asked first
        self._waited = 0.0
        self._missed = 0
        self._heard = False  # since the last miss

    def about(self, step: int) -> Offer | None:
        """The next proposal about that boundary, waited for."""
        self._collect()
        self._asked = step
        if self._began is None:
            self._began, self._waited = time.monotonic(), 0.0
        while (found := next((p for p in self._held.values() if p.content.step == step), None)) is None:
            if self._missed >= self._settings.misses and not self._heard:
                return None
            arrived = self._inbox.proposal(self._began + self._settings.wait - time.monotonic())
            self._waited = time.monotonic() - self._began
            if arrived is None:
                return None
            self._hold(arrived)
        return self._offer(found)

    def left(self, to_come: frozenset[int]) -> Offer | None:
        """The next proposal that is about none of those boundaries."""
        self._collect()
        found = next((each for each in self._held.values() if each.content.step not in to_come), None)
        return None if found is None else self._offer(found)

    def measured(self) -> dict[str, float]:
        """Of the proposal that was given last: the seconds that the boundary waited for it, and those from when the
        boundary that it is about was committed, if this process did that, to its arrival."""
        measured = {"waited": self._waited}
        if self._given is not None and self._given.content.step in self._committed:
            measured["latency"] = max(self._given.arrived - self._committed[self._given.content.step], 0.0)
        return measured

    def told(self, step: int, contents: Iterable[object]) -> Callable[[], None]:
        """What the boundary at ``step`` has decided; returns what to call, from any thread, once it is committed."""
        self._began = None
        for each in contents:
            if isinstance(each, DecisionMade) or (isinstance(each, DecisionRejected) and each.reason == "stale"):
                self._missed = 0
            elif isinstance(each, DecisionRejected) and each.reason == "late" and each.issuer is None:
                self._miss()
        for known in list(self._committed):  # in place: the writer's thread notes others meanwhile
            if known <= self._asked:
                del self._committed[known]
        return partial(self._note, step)

    def _note(self, step: int) -> None:
        self._committed[step] = time.monotonic()

    def _miss(self) -> None:
        self._missed += 1
        self._heard = False
        if self._missed == self._settings.misses:
            logger.warning(
                "run %s: no decision came for %d boundaries, so training goes on without waiting for any until one "
                "comes; see that a worker runs (`esper worker`)",
                self._run_id,
                self._missed,
            )

    def _collect(self) -> None:
        while (arrived := self._inbox.proposal(0)) is not None:
            self._hold(arrived)

    def _hold(self, proposal: Proposal) -> None:
        self._heard = True
        if proposal.id not in self._answered:
            self._held[proposal.id] = proposal

    def _offer(self, proposal: Proposal) -> Offer:
        self._given = self._held.pop(proposal.id)
        content = proposal.content
        site = content.site if content.site in self._sites else None
        return Offer(proposal.id, content.step, content.issuer, site, content, proposal.forged())


def answered_by(events: Iterable[Event]) -> set[UUID]:
    """The ids of the proposals that a run's events answer."""
    decided = (each for each in events if isinstance(each.content, DecisionMade | DecisionRejected))
    return {cause for each in decided for cause in each.envelope.causes}
