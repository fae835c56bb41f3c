"""Signals to a run, collected by a thread of its own, so that the training thread never waits for the log."""

from __future__ import annotations

import logging
import queue
import threading
from dataclasses import dataclass
from uuid import UUID

from esper.errors import DecodeError, LogError
from esper.events.signals import CommandIssued
from esper.log.port import SIGNALS, Log
from esper.log.records import event_of

logger = logging.getLogger("esper")


@dataclass(frozen=True, slots=True)
class Command:
    """A signal that asks something of the run; ``id`` is the signal's."""

    id: UUID
    content: CommandIssued


class Inbox:
    """The commands of a run, from the first one on, in the order of the log."""

    def __init__(self, log: Log, run_id: str) -> None:
        self._arrived: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, args=(log, run_id), name="esper-inbox", daemon=True)
        self._thread.start()

    def take(self) -> list[Command]:
        """What has arrived since the last call."""
        taken = []
        while not self._arrived.empty():
            taken.append(self._arrived.get())
        return taken

    def close(self) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def _follow(self, log: Log, run_id: str) -> None:
        try:
            for entry in log.follow(SIGNALS, key=run_id, stop=self._stop):
                try:
                    event = event_of(entry)
                except DecodeError as error:
                    logger.warning("a signal at %s was ignored: %s", entry.position, error)
                    continue
                if isinstance(event.content, CommandIssued):
                    self._arrived.put(Command(event.envelope.id, event.content))
        except LogError as error:
            logger.warning("run %s takes no more commands: %s", run_id, error)
