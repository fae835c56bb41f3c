"""Batches of measurements as Arrow tables, without a Python object for each row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from esper.events.telemetry import StepsMeasured
from esper.log.port import Position

Batch = tuple[str, Position, StepsMeasured]
"""Run, place of the record, content."""


def check(content: StepsMeasured) -> str:
    """What is wrong with the arrays of a batch; empty if nothing is."""
    rows = len(content.value)
    if {len(content.at), len(content.metric), len(content.site)} != {rows}:
        return "its arrays have different lengths"
    if not len(content.steps) == len(content.epochs) == len(content.times):
        return "its steps have different lengths"
    for name, places, least, end in (
        ("at", content.at, 0, len(content.steps)),
        ("metric", content.metric, 0, len(content.metrics)),
        ("site", content.site, -1, len(content.sites)),
    ):
        if rows and not (least <= min(places) and max(places) < end):
            return f"{name} names what is not there"
    return ""


def table(log: str, batches: Sequence[Batch]) -> pa.Table:
    """The rows of ``batches``, whose arrays were checked, as ``telemetry`` has them."""
    return pa.concat_tables([_table(log, *batch) for batch in batches], promote_options="none")


def _table(log: str, run_id: str, position: Position, content: StepsMeasured) -> pa.Table:
    rows = len(content.value)
    at = np.asarray(content.at, dtype=np.int64)
    site = pa.array(np.asarray(content.site, dtype=np.int32) + 1)

    def same(value: object, kind: pa.DataType) -> pa.Array:
        return pa.repeat(pa.scalar(value, kind), rows)

    def of_steps(values: Sequence[int], kind: type) -> np.ndarray:
        return np.asarray(values, dtype=kind)[at] if rows else np.empty(0, kind)

    def named(places: pa.Array, names: Sequence[str]) -> pa.Array:
        return pa.DictionaryArray.from_arrays(places, pa.array(names, pa.string())).dictionary_decode()

    return pa.table(
        {
            "log": same(log, pa.string()),
            "partition": same(position.partition, pa.uint16()),
            "offset": same(position.offset, pa.uint64()),
            "row": pa.array(np.arange(rows, dtype=np.uint32)),
            "run_id": same(run_id, pa.string()),
            "attempt": same(content.attempt, pa.uint32()),
            "metric": named(pa.array(np.asarray(content.metric, dtype=np.int32)), content.metrics),
            "site": named(site, ("", *content.sites)),
            "step": pa.array(of_steps(content.steps, np.uint64)),
            "epoch": pa.array(of_steps(content.epochs, np.uint32)),
            "time": pa.array(of_steps(content.times, np.int64) // 1000, pa.timestamp("ms", "UTC")),
            "value": pa.array(np.asarray(content.value, dtype=np.float64)),
        }
    )
