"""Events on ``esper.telemetry``: measurements of steps, in batches. They change nothing and are never replayed."""

from __future__ import annotations

from dataclasses import dataclass

from esper.events.runs import Measured


@dataclass(frozen=True, slots=True, kw_only=True)
class StepsMeasured:
    """Measurements of some steps of an attempt, as parallel arrays.

    ``steps``, ``epochs`` and ``times`` (microseconds since 1970, UTC) have an item for each step. A series is one
    metric of one site: ``series_metric``, ``series_site`` and ``series_length`` say which of ``metrics``, which of
    ``sites`` (names of sites or seeds; -1 for the whole model), and how many measurements. ``at`` (which of the steps)
    and ``value`` have an item for each measurement, series after series. ``dropped`` counts measurements that were
    lost since the batch before.
    """

    attempt: int
    dropped: int
    metrics: tuple[str, ...]
    sites: tuple[str, ...]
    steps: tuple[int, ...]
    epochs: tuple[int, ...]
    times: tuple[int, ...]
    series_metric: tuple[int, ...]
    series_site: tuple[int, ...]
    series_length: tuple[int, ...]
    at: tuple[int, ...]
    value: tuple[float, ...]
    measured: Measured | None = None
