"""Proposes decisions about the boundaries of runs whose policy is asked here, in a worker, instead of in their
trainer."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from itertools import chain

from esper.errors import LogError, UsageError
from esper.events import Event, runs
from esper.events.signals import DecisionProposed
from esper.log.kafka.log import KafkaLog
from esper.log.port import Record
from esper.tamiyo.policy.remote import proposals, signal_of
from esper.tamiyo.run.state import RunState, settings_of
from streams.host import safe
from streams.host.records import in_thread

logger = logging.getLogger("esper.worker")
_OVER = (runs.RunPaused, runs.RunCompleted, runs.RunFailed, runs.RunCancelled)


class Decisions:
    """Follows the run view. Of a run that is being caught up with only the last ``decision.lag`` boundaries are
    answered, when no further event is waiting: the others are past. A proposal that cannot be sent is a miss, and
    about a run whose policy is not known here nothing is proposed."""

    def __init__(self, log: KafkaLog) -> None:
        self._log = log
        self._due: dict[str, deque[tuple[safe.Ticket, Event, RunState]]] = {}
        self._sending: set[asyncio.Task[None]] = set()
        self._refused: set[str] = set()  # runs that go on, whose policy is not known here
        self.sent = 0

    async def event(self, ticket: safe.Ticket, state: RunState, event: Event) -> None:
        """See ``Follower.event``: a boundary is remembered until ``idle``, and a run that has ended is forgotten."""
        if isinstance(event.content, runs.BoundaryReached):
            due = self._due.setdefault(state.run_id, deque(maxlen=settings_of(state).decision.lag))
            due.append((ticket, event, state))
        elif isinstance(event.content, _OVER):
            self._due.pop(state.run_id, None)
            self._refused.discard(state.run_id)

    async def idle(self) -> None:
        """Send proposals about the boundaries that are remembered, without waiting until the log has them."""
        due, self._due = self._due, {}
        for ticket, event, state in chain.from_iterable(due.values()):
            for proposal in self._proposals(state, event):
                ticket.hold()
                task = asyncio.ensure_future(self._send(ticket, signal_of(state.run_id, event, proposal)))
                self._sending.add(task)
                task.add_done_callback(self._sending.discard)

    def _proposals(self, state: RunState, event: Event) -> tuple[DecisionProposed, ...]:
        try:
            return proposals(state, event)
        except UsageError as error:
            if state.run_id not in self._refused:
                self._refused.add(state.run_id)
                logger.warning("nothing is proposed for run %s: %s", state.run_id, error)
            return ()

    async def _send(self, ticket: safe.Ticket, record: Record) -> None:
        try:
            await in_thread(self._log.signal, record)
            self.sent += 1
        except LogError as error:
            logger.warning("a proposal for run %s was not sent: %s", record.key, error)
        finally:
            ticket.release()
