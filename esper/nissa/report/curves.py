"""The curves as columns of numbers, for the script that draws them. Not-a-numbers are gaps."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from esper.nissa.report.gather import Gathered, Rows


def curves(found: Gathered) -> dict[str, Any]:
    """The charts of one run: each has ``x`` and columns as long as it."""
    loss, boundaries = found["loss"], found["boundaries"]
    every = {name: _points(loss, name) for name in ("low", "high")}
    charts = {
        "loss": _aligned({"mean": _points(boundaries, "loss"), **(every if loss else {})}),
        "rate": _aligned({"rate": _points(found["rate"], "value") or _points(boundaries, "rate")}),
    }
    norms: dict[str, dict[int, float]] = {}
    for row in found["norms"]:
        norms.setdefault(row["line"], {}).update(_points([row], "value"))
    sites = sorted(name for name in norms if name)
    seeds = [norms[""]] if "" in norms else []
    aligned = _aligned({str(place): of for place, of in enumerate([*(norms[name] for name in sites), *seeds])})
    charts["norms"] = {
        "x": aligned["x"],
        "sites": sites,
        "columns": [aligned[str(place)] for place in range(len(sites) + len(seeds))],
    }
    return charts


def together(runs: Mapping[str, Gathered]) -> dict[str, Any]:
    """The losses of several runs, on one axis of steps."""
    aligned = _aligned({str(place): _points(found["boundaries"], "loss") for place, found in enumerate(runs.values())})
    return {"x": aligned["x"], "runs": list(runs), "columns": [aligned[str(place)] for place in range(len(runs))]}


def broken(found: Gathered) -> int:
    """Steps whose loss was not finite."""
    return sum(row["broken"] for row in found["loss"])


def _points(rows: Rows, name: str) -> dict[int, float]:
    return {row["x"]: _short(row[name]) for row in rows if row[name] is not None and isfinite(row[name])}


def _aligned(columns: Mapping[str, Mapping[int, float]]) -> dict[str, Any]:
    steps = sorted({step for points in columns.values() for step in points})
    return {"x": steps, **{name: [points.get(step) for step in steps] for name, points in columns.items()}}


def _short(value: float) -> float:
    """Five digits are more than a screen shows."""
    return float(f"{value:.5g}")
