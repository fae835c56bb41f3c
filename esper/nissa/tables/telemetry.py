"""Batches of measurements as Arrow tables, without a Python object for each row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from esper.events.telemetry import StepsMeasured
from esper.log.port import Position
from esper.nissa.tables.rows import LARGE, SMALL

Batch = tuple[str, Position, StepsMeasured]
"""Run, place of the record, content."""


def check(content: StepsMeasured) -> str:
    """What is wrong with a batch; empty if nothing is."""
    lengths = content.series_length
    if not len(content.series_metric) == len(content.series_site) == len(lengths):
        return "its series have different lengths"
    if not len(content.at) == len(content.value) == sum(lengths) or min(lengths, default=0) < 0:
        return "its measurements are not as many as its series have"
    if not len(content.steps) == len(content.epochs) == len(content.times):
        return "its steps have different lengths"
    for name, places, least, end in (
        ("at", content.at, 0, len(content.steps)),
        ("series_metric", content.series_metric, 0, len(content.metrics)),
        ("series_site", content.series_site, -1, len(content.sites)),
    ):
        if places and not (least <= min(places) and max(places) < end):
            return f"{name} names what is not there"
    for name, numbers, most in (
        ("attempt", (content.attempt,), SMALL),
        ("dropped", (content.dropped,), LARGE),
        ("steps", content.steps, LARGE),
        ("epochs", content.epochs, SMALL),
    ):
        if numbers and not (min(numbers) >= 0 and max(numbers) <= most):
            return f"{name} cannot be below 0 or above {most}"
    return ""


def table(log: str, batches: Sequence[Batch]) -> pa.Table:
    """The rows of ``batches``, whose arrays were checked, as ``telemetry`` has them."""
    contents = [content for _, _, content in batches]
    rows = [len(content.value) for content in contents]
    ats = [np.asarray(content.at, dtype=np.int64) for content in contents]

    def each(values: Iterable[int], kind: type) -> np.ndarray:
        """One value of each batch, for all its rows."""
        return np.repeat(np.fromiter(values, kind, len(rows)), rows)

    def of_steps(name: str) -> np.ndarray:
        return _joined(np.asarray(getattr(of, name), dtype=np.int64)[at] for of, at in zip(contents, ats, strict=True))

    return pa.table(
        {
            "log": _named(np.zeros(sum(rows), np.int32), [log]),
            "partition": each((position.partition for _, position, _ in batches), np.uint16),
            "offset": each((position.offset for _, position, _ in batches), np.uint64),
            "row": _joined(np.arange(count, dtype=np.uint32) for count in rows),
            "run_id": _of_batches([run_id for run_id, _, _ in batches], rows),
            "attempt": each((content.attempt for content in contents), np.uint32),
            "metric": _of_series((content, content.series_metric, content.metrics) for content in contents),
            "site": _of_series(
                # -1 is the last: no site.
                (content, content.series_site, (*content.sites, ""))
                for content in contents
            ),
            "step": of_steps("steps").astype(np.uint64),
            "epoch": of_steps("epochs").astype(np.uint32),
            "time": pa.array(of_steps("times") // 1000, pa.timestamp("ms", "UTC")),
            "value": _joined(np.asarray(content.value, dtype=np.float64) for content in contents),
        }
    )


def _of_batches(names: Sequence[str], rows: Sequence[int]) -> pa.DictionaryArray:
    places: dict[str, int] = {}
    return _named(np.repeat([places.setdefault(name, len(places)) for name in names], rows), places)


def _of_series(given: Iterable[tuple[StepsMeasured, Sequence[int], Sequence[str]]]) -> pa.DictionaryArray:
    """What a batch's series have of its names, for all their rows."""
    places: dict[str, int] = {}
    parts = []
    for content, which, names in given:
        here = np.asarray([places.setdefault(name, len(places)) for name in names], dtype=np.int32)
        parts.append(np.repeat(here[np.asarray(which, dtype=np.int64)], content.series_length))
    return _named(_joined(parts), places)


def _named(which: np.ndarray, names: Iterable[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(which.astype(np.int32, copy=False), pa.array(list(names), pa.string()))


def _joined(parts: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate(list(parts))
