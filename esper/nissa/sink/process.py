"""The sink as a process: follows the log, waits out trouble, and says so once."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from esper.errors import AnalyticsError, LogError
from esper.events.topics import ANALYSED, PARTITIONS
from esper.log.port import Log, Share, ShareChange
from esper.nissa.sink.shares import Shared
from esper.nissa.sink.sink import Sink
from esper.system.backoff import Backoff

logger = logging.getLogger("esper")
INTERVAL = 1.0
"""Seconds between two looks at the log's end."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds to wait after trouble."""
OPEN_AFTER = 6
"""Failures in a row after which the sink only probes whether the trouble has passed."""


@dataclass(slots=True)
class SinkProgress:
    """What a sink has done, and what troubles it now."""

    records: int = 0
    failures: int = 0
    trouble: str = ""
    probing: bool = False
    """It failed so often in a row that it does nothing but ask now and then whether the trouble has passed."""
    caught_up: float = 0.0
    """Time (``time.time``) at which it last had all."""


class Alone:
    """The share of a sink that has everything to itself, for as long as it lives."""

    def __init__(self) -> None:
        self._taken = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def poll(self, wait: float = 0.0, done: Mapping[str, Mapping[int, int]] | None = None) -> ShareChange:
        """See ``Share.poll``: all partitions the first time, no change after that."""
        if self._taken:
            time.sleep(wait)
            return ShareChange({}, {})
        self._taken = True
        return ShareChange({topic: frozenset(range(PARTITIONS)) for topic in ANALYSED}, {})

    def sure(self) -> bool:
        """True: nobody else fills the database."""
        return True


def follow(sink: Sink, stop: threading.Event, progress: SinkProgress, share: Share | None = None) -> None:
    """Fill the database until ``stop`` is set, the partitions that ``share`` says; trouble with either end is waited
    out."""
    _Following(sink, stop, progress, Shared(sink, share or Alone())).run()


class _Following:
    def __init__(self, sink: Sink, stop: threading.Event, progress: SinkProgress, shared: Shared) -> None:
        self._sink, self._stop, self._progress, self._shared = sink, stop, progress, shared
        self._backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        self._probing = False

    def run(self) -> None:
        while not self._stop.is_set():
            try:
                self._work()
            except (AnalyticsError, LogError) as error:
                self._wait(self._failed(str(error)))

    def _work(self) -> None:
        """One look at the log, and what follows from it."""
        progress = self._progress
        if self._probing:
            self._sink.probe()
            self._probing = False  # work is tried again; one more failure is enough to go back to probing
        if self._shared.begin():
            progress.records += self._sink.advance(self._stop, self._shared.still)
            progress.caught_up = time.time()
        if progress.trouble:
            logger.warning("the sink goes on")
        self._backoff.reset()
        progress.trouble, progress.probing = "", False
        self._shared.rest(self._stop, INTERVAL)

    def _failed(self, error: str) -> float:
        """Returns the seconds to wait."""
        progress, pause = self._progress, self._backoff.pause()
        self._probing = self._backoff.failures >= OPEN_AFTER
        if not progress.trouble:
            logger.warning("the sink waits: %s", error)
        if self._probing and not progress.probing:
            logger.warning(
                "the sink failed %d times in a row and only asks now and then until that has passed: %s",
                *(self._backoff.failures, error),
            )
        progress.failures += 1
        progress.trouble, progress.probing = error, progress.probing or self._probing
        self._shared.again()  # what was being written may be there in part
        return pause

    def _wait(self, seconds: float) -> None:
        """Wait, and hold the share meanwhile, so that the partitions do not wander with each trouble."""
        deadline = time.monotonic() + seconds
        while not self._stop.is_set() and (left := deadline - time.monotonic()) > 0:
            with suppress(LogError):
                self._shared.rest(self._stop, min(left, INTERVAL))
            self._stop.wait(min(left, INTERVAL))


def lag(sink: Sink, log: Log) -> dict[str, int]:
    """Offsets between what is done and the log's end, by topic, of what the sink fills; some of them are holes. Nothing
    while the log does not answer."""
    try:
        return {
            topic: sum(
                end - 1 - max(done, first - 1)
                for partition, (first, end) in log.bounds(topic).items()
                if (done := sink.places[topic].get(partition)) is not None
            )
            for topic in ANALYSED
        }
    except LogError:
        return {}
