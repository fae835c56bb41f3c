"""Signals to a run, collected by a thread of its own, so that the training thread never waits for the log."""

from __future__ import annotations

import logging
import queue
import threading
import time
from dataclasses import dataclass
from uuid import UUID

from esper.errors import DecodeError, LogError
from esper.events.encoding.codec import content_digest
from esper.events.signals import CommandIssued, DecisionProposed
from esper.events.topics import SIGNALS
from esper.log.deadletter import sending_to
from esper.log.port import Log, Position
from esper.log.records import event_of
from esper.system.backoff import Backoff
from esper.tamiyo.rules.script import forged
from esper.tolaria.journal.reopening import WRITER

logger = logging.getLogger("esper")
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0  # seconds between two attempts to read


@dataclass(frozen=True, slots=True)
class PendingCommand:
    """A signal that asks something of the run; ``id`` is the signal's."""

    id: UUID
    content: CommandIssued

    def forged(self, run_id: str) -> str | None:
        """Why this is no command to that run, if it is none."""
        return forged(self.id, run_id, self.content.issuer, self.content.nonce)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A signal that proposes a decision; ``id`` is the signal's, ``arrived`` is when, by the monotonic clock."""

    run_id: str
    id: UUID
    content: DecisionProposed
    arrived: float

    def forged(self) -> str | None:
        """Why this is no proposal to this run, if it is none."""
        return forged(self.id, self.run_id, self.content.issuer, self.content.nonce)


class Inbox:
    """The commands and proposals of a run, from the first one on, in the order of the log; two with one id are one.

    A log that is away is asked again, ever more slowly, until ``close``: the journal says when patience is over.
    """

    def __init__(self, log: Log, run_id: str) -> None:
        self._log, self._run_id = log, run_id
        self._arrived: queue.SimpleQueue[PendingCommand] = queue.SimpleQueue()
        self._proposed: queue.SimpleQueue[Proposal] = queue.SimpleQueue()
        self._known: dict[UUID, str] = {}  # digests of contents
        self._unreadable = sending_to(log, WRITER)
        self._after: Position | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="esper-inbox", daemon=True)
        self._thread.start()

    def take(self) -> list[PendingCommand]:
        """The commands that have arrived since the last call."""
        taken = []
        while not self._arrived.empty():
            taken.append(self._arrived.get())
        return taken

    def proposal(self, seconds: float) -> Proposal | None:
        """The next proposal, if one has arrived or does so in that time."""
        try:
            return self._proposed.get(seconds > 0, max(seconds, 0))
        except queue.Empty:
            return None

    def close(self) -> None:
        """Stop listening; waits up to five seconds for the thread to end."""
        self._stop.set()
        self._thread.join(timeout=5)

    def _work(self) -> None:
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        while not self._stop.is_set():
            before = self._after
            try:
                self._follow()
            except LogError as error:
                if self._after != before:
                    backoff.reset()
                if not backoff.failures:
                    logger.warning("run %s: no command can arrive now, the log is asked again: %s", self._run_id, error)
                self._stop.wait(backoff.pause())

    def _follow(self) -> None:
        for entry in self._log.follow(SIGNALS, key=self._run_id, after=self._after, stop=self._stop):
            self._after = entry.position
            try:
                event = event_of(entry)
            except DecodeError as error:
                self._unreadable(entry, error)
                continue
            content = event.content
            if not isinstance(content, CommandIssued | DecisionProposed) or (
                not self._new(event.envelope.id, content, entry.position)
            ):
                continue
            if isinstance(content, CommandIssued):
                self._arrived.put(PendingCommand(event.envelope.id, content))
            else:
                self._proposed.put(Proposal(self._run_id, event.envelope.id, content, time.monotonic()))

    def _new(self, signal: UUID, content: CommandIssued | DecisionProposed, position: Position) -> bool:
        """Whether this is the first signal with its id; says so if another of other content came before."""
        digest = content_digest(content)
        if signal not in self._known:
            self._known[signal] = digest
            return True
        if self._known[signal] != digest:
            logger.warning(
                "run %s: the %s at %s was ignored: %s used its nonce %s for another one before; send it again "
                "with a nonce of its own",
                self._run_id,
                "command" if isinstance(content, CommandIssued) else "proposal",
                position,
                content.issuer,
                content.nonce,
            )
        return False
