"""Fills a new generation of the views beside the live one, and makes it the live one when it has caught up."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
from pathlib import Path

from faust.types import TP

from esper.errors import WorkerFailed
from esper.events.topics import ASSETS, DEADLETTER, RUNS, SIGNALS
from esper.log.kafka.log import KafkaLog
from streams import app
from streams.serving.served import WorkerOptions
from streams.views import generations
from streams.views.generations import Generation

logger = logging.getLogger("esper.worker")


def rebuild(before: Generation) -> Generation:
    """The new live generation; ``before`` is kept, as what one can return to, and those before it are removed."""
    log = before.log
    for number in range(before.number + 1, before.number + 3):
        generations.remove(Generation(log, number))  # what an interrupted rebuild left
    new = Generation(log, before.number + 1)
    generations.prepare(new)
    with tempfile.TemporaryDirectory(prefix="esper-views-") as folder:
        place = WorkerOptions(name="rebuild", host="127.0.0.1", port=0, data=Path(folder))
        ends = _ends(log)
        builder = app.run(lambda: _Builder(new, place, ends))
    if not builder.caught_up:
        raise WorkerFailed("the new views were not filled; the old ones stay live")
    generations.make_live(new)
    generations.remove(Generation(log, before.number - 1))
    return new


class _Builder(app.Views):
    """Fills a generation until it has ``ends``, then stops."""

    def __init__(self, generation: Generation, place: WorkerOptions, ends: dict[TP, int]) -> None:
        super().__init__(generation, place, building=True)
        self._ends = ends
        self.caught_up = False

    async def on_start(self) -> None:
        await super().on_start()
        self.add_future(self._watch_ends())

    async def _watch_ends(self) -> None:
        while not self.should_stop:
            await self.sleep(0.1)
            done = {tp: self.progress.committable(tp) for tp in self._ends}
            if self.ready and all((done[tp] or 0) >= end for tp, end in self._ends.items()):
                self.caught_up = True
                os.kill(os.getpid(), signal.SIGTERM)
                return


def _ends(log: KafkaLog) -> dict[TP, int]:
    """For each partition of the sources that has records: the offset behind the last one."""
    ends = {}
    for topic in (RUNS, ASSETS, SIGNALS, DEADLETTER):
        for partition, end in log.reader.ends(topic, range(log.partitions(topic))).items():
            last = _last(log, topic, partition, end)
            if last is not None:
                ends[TP(log.address.named(topic), partition)] = last + 1
    return ends


def _last(log: KafkaLog, topic: str, partition: int, end: int) -> int | None:
    """The offset of the last record before ``end``, where markers may lie."""
    step = 16
    while end > 0:
        start = max(end - step, 0)
        offsets = [message.offset() for message in log.reader.messages(topic, partition, start, end)]
        if offsets:
            return int(offsets[-1])
        if start == 0:
            return None
        step *= 4
    return None
