"""Dead letters from the sink: a record that cannot be read is named on ``esper.deadletter``, once."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

from esper.errors import DecodeError, LogError
from esper.events.deadletter import DeadLetter
from esper.events.topics import DEADLETTER
from esper.log.deadletter import sending_to
from esper.log.exclusions import STRUCK
from esper.log.port import Entry, Log
from esper.log.records import event_of

if TYPE_CHECKING:
    from collections.abc import Callable

LOOK = 5.0
"""Seconds between two looks at what others have made dead letters."""


class Letters:
    """Makes records dead letters, but for those that are already, whoever made them so (a moment ago: perhaps)."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._send: Callable[[Entry, DecodeError], None] = sending_to(log, f"sink/{socket.gethostname()}/{os.getpid()}")
        self._known: set[str] = set()
        self._places: dict[int, int] = {}
        self._looked = -LOOK

    def unreadable(self, entry: Entry, error: str) -> None:
        """``entry`` cannot be read because of ``error``; a dead letter that cannot be read does not become another."""
        if entry.position.topic == DEADLETTER or error == STRUCK:
            return
        source = str(entry.position)
        if source not in self._known and time.monotonic() - self._looked >= LOOK:
            self._look()
            self._looked = time.monotonic()
        if source not in self._known:
            self._known.add(source)
            self._send(entry, DecodeError(error))

    def _look(self) -> None:
        """See which dead letters have come since the last look."""
        for entry in self._log.since(DEADLETTER, self._places):
            self._places[entry.position.partition] = entry.position.offset
            try:
                content = event_of(entry).content
            except (DecodeError, LogError):
                continue
            if isinstance(content, DeadLetter):
                self._known.add(content.source)
