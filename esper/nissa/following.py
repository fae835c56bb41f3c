"""The sink as a process: follows the log, waits out trouble, and says so once."""

from __future__ import annotations

import logging
import random
import threading
import time
from dataclasses import dataclass

from esper.errors import AnalyticsError, LogError
from esper.log.port import Log
from esper.nissa.sink import TOPICS, Sink

logger = logging.getLogger("esper")
INTERVAL = 1.0
"""Seconds between two looks at the log's end."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds to wait after trouble; each time twice as long, with jitter."""


@dataclass(slots=True)
class Progress:
    """What a sink has done, and what troubles it now."""

    records: int = 0
    failures: int = 0
    trouble: str = ""
    caught_up: float = 0.0
    """Time (``time.time``) at which it last had all."""


def follow(sink: Sink, stop: threading.Event, progress: Progress) -> None:
    """Fill the database until ``stop`` is set; trouble with either end is waited out."""
    pause, begun = FIRST_PAUSE, False
    while not stop.is_set():
        try:
            if not begun:
                sink.begin_all()
                begun = True
            progress.records += sink.advance(stop)
            progress.caught_up, pause = time.time(), FIRST_PAUSE
            if progress.trouble:
                logger.warning("the sink goes on")
                progress.trouble = ""
            stop.wait(INTERVAL)
        except (AnalyticsError, LogError) as error:
            begun = False  # what was being written may be there in part
            progress.failures += 1
            if not progress.trouble:
                logger.warning("the sink waits: %s", error)
            progress.trouble = str(error)
            stop.wait(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, LONGEST_PAUSE)


def lag(sink: Sink, log: Log) -> dict[str, int]:
    """Offsets between what is done and the log's end, by topic; some of them are holes."""
    return {
        topic: sum(
            end - 1 - max(sink.places[topic].get(partition, -1), first - 1)
            for partition, (first, end) in log.bounds(topic).items()
        )
        for topic in TOPICS
        if topic in sink.places
    }
