"""Measurements of steps on their way to the log, off the training thread.

What the training thread does is to append numbers to lists. When the log cannot keep up, measurements are dropped and
counted; never an event, and training never waits.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain

from esper.errors import EsperError
from esper.events.telemetry import StepsMeasured
from esper.log.port import Log
from esper.log.records import telemetry_record
from esper.settings import Telemetry

logger = logging.getLogger("esper")
CLOSING = 2.0  # seconds that the last batches get
Measurement = tuple[str, str, float]
"""Metric, site or seed (empty: the whole model), value."""


@dataclass(slots=True)
class _Batch:
    """Measurements of steps that follow each other."""

    steps: list[int] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    series: dict[tuple[str, str], tuple[list[int], list[float]]] = field(default_factory=dict)
    """By metric and site: places in ``steps``, and values."""
    rows: int = 0

    def add(self, step: int, epoch: int, found: Iterable[Measurement]) -> None:
        place = len(self.steps)
        self.steps.append(step)
        self.epochs.append(epoch)
        self.times.append(time.time_ns() // 1000)
        for metric, site, value in found:
            series = self.series.get((metric, site))
            if series is None:
                series = self.series[metric, site] = ([], [])
            series[0].append(place)
            series[1].append(value)
            self.rows += 1

    def content(self, attempt: int, dropped: int) -> StepsMeasured:
        metrics = {metric: place for place, metric in enumerate(dict.fromkeys(metric for metric, _ in self.series))}
        named = dict.fromkeys(site for _, site in self.series if site)
        sites = {"": -1} | {site: place for place, site in enumerate(named)}
        return StepsMeasured(
            attempt=attempt,
            dropped=dropped,
            metrics=tuple(metrics),
            sites=tuple(named),
            steps=tuple(self.steps),
            epochs=tuple(self.epochs),
            times=tuple(self.times),
            series_metric=tuple(metrics[metric] for metric, _ in self.series),
            series_site=tuple(sites[site] for _, site in self.series),
            series_length=tuple(len(values) for _, values in self.series.values()),
            at=tuple(chain.from_iterable(at for at, _ in self.series.values())),
            value=tuple(chain.from_iterable(values for _, values in self.series.values())),
        )


class Recorder:
    """Sends a run's measurements. ``record`` and ``next_attempt`` belong to the training thread."""

    def __init__(self, log: Log, run_id: str, attempt: int, epoch: int, settings: Telemetry) -> None:
        self._log, self._run_id, self._settings = log, run_id, settings
        self._attempt, self._epoch = attempt, epoch
        self._batch, self._began = _Batch(), time.monotonic()
        self._refused = self._unsent = 0  # measurements: each thread counts its own
        self._told = 0  # of both
        self._sent = 0
        self._exchange = threading.Lock()  # of the batch
        self._queue: queue.Queue[tuple[int, _Batch] | None] = queue.Queue(settings.buffer)
        self._thread = threading.Thread(target=self._work, name="esper-telemetry", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Measurements, in all."""
        return self._refused + self._unsent

    def record(self, step: int, epoch: int, found: Iterable[Measurement]) -> None:
        """Take a step's measurements; never waits."""
        with self._exchange:
            self._batch.add(step, epoch, found)
        if self._batch.rows >= self._settings.rows or self._is_due():
            self._hand_over()

    def _is_due(self) -> bool:
        return self._batch.rows > 0 and time.monotonic() - self._began >= self._settings.seconds

    def next_attempt(self) -> None:
        """Later steps belong to another attempt: the run was rolled back."""
        self._hand_over()
        self._attempt += 1

    def close(self) -> None:
        """Send what is left, as far as that takes no longer than a moment."""
        self._hand_over()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)
        self._thread.join(timeout=CLOSING)

    def _hand_over(self) -> None:
        with self._exchange:
            batch, self._batch, self._began = self._batch, _Batch(), time.monotonic()
            attempt = self._attempt
        if batch.rows:
            try:
                self._queue.put_nowait((attempt, batch))
            except queue.Full:
                self._tell()
                self._refused += batch.rows

    def _tell(self) -> None:
        if not self.dropped:
            logger.warning("run %s: the log takes no telemetry now; training goes on without", self._run_id)

    # The sending thread

    def _work(self) -> None:
        while True:
            try:
                taken = self._queue.get(timeout=self._settings.seconds / 4)
            except queue.Empty:  # the loop is busy with something else, such as an evaluation
                if self._is_due():
                    self._hand_over()
                continue
            if taken is None:
                return
            attempt, batch = taken
            dropped = self.dropped
            try:
                self._send(batch.content(attempt, dropped - self._told))
                self._told = dropped
            except EsperError as error:
                logger.debug("telemetry was not sent: %s", error)
                self._tell()
                self._unsent += batch.rows

    def _send(self, content: StepsMeasured) -> None:
        self._sent += 1
        time = datetime.now(UTC)
        self._log.signal(telemetry_record(self._run_id, content, epoch=self._epoch, number=self._sent, time=time))
