"""Events on ``esper.telemetry``: measurements of steps, in batches. They change nothing and are never replayed."""

from __future__ import annotations

from dataclasses import dataclass

from esper.events.runs import Measured


@dataclass(frozen=True, slots=True, kw_only=True)
class StepsMeasured:
    """Measurements of some steps of an attempt, as parallel arrays.

    ``steps``, ``epochs`` and ``times`` (microseconds since 1970, UTC) have an item for each step. ``at``, ``metric``,
    ``site`` and ``value`` have one for each measurement: which step, which of ``metrics`` and of ``sites`` (names of
    sites or seeds; -1 for the whole model). ``dropped`` counts measurements that were lost since the batch before.
    """

    attempt: int
    dropped: int
    metrics: tuple[str, ...]
    sites: tuple[str, ...]
    steps: tuple[int, ...]
    epochs: tuple[int, ...]
    times: tuple[int, ...]
    at: tuple[int, ...]
    metric: tuple[int, ...]
    site: tuple[int, ...]
    value: tuple[float, ...]
    measured: Measured | None = None
