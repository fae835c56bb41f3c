"""The curves as columns of numbers, for the script that draws them. Not-a-numbers are gaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from esper.nissa.report.gather import Gathered, Rows


def curves(found: Gathered) -> dict[str, Any]:
    """The charts of one run: each has ``x`` and columns as long as it."""
    loss, boundaries = found["loss"], found["boundaries"]
    every = {name: _points(loss, name) for name in ("low", "high")}
    charts: dict[str, Any] = {
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
    charts["metrics"] = [{"name": name, **_aligned({"y": points})} for name, points in _metrics(found).items()]
    return charts


def together(runs: Mapping[str, Gathered], labels: Sequence[str]) -> list[dict[str, Any]]:
    """The losses of several runs, called ``labels``, on one axis of steps; then each metric that several have."""
    charts = [_side_by_side("Training loss", [_points(found["boundaries"], "loss") for found in runs.values()], labels)]
    logged = [_metrics(found) for found in runs.values()]
    names = dict.fromkeys(name for each in logged for name in each)
    shared = [name for name in names if sum(name in each for each in logged) > 1]
    return charts + [_side_by_side(name, [each.get(name, {}) for each in logged], labels) for name in shared]


def _side_by_side(name: str, lines: Sequence[Mapping[int, float]], labels: Sequence[str]) -> dict[str, Any]:
    aligned = _aligned({str(place): points for place, points in enumerate(lines)})
    columns = [aligned[str(place)] for place in range(len(lines))]
    return {"name": name, "x": aligned["x"], "runs": list(labels), "columns": columns}


def _metrics(found: Gathered) -> dict[str, dict[int, float]]:
    """What the program logged itself, by name and step."""
    points: dict[str, dict[int, float]] = {}
    for row in found["metrics"]:
        points.setdefault(row["metric"], {}).update(_points([row], "value"))
    return points


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
    short = float(f"{value:.5g}")
    return short if isfinite(short) else value
