"""The curves of a report as columns of numbers."""

from __future__ import annotations

import sys

from esper.nissa.report.curves import broken, curves, together
from tests.support.runs.reporting import empty, full


def test_what_the_program_measured_is_drawn_and_shared_metrics_are_compared():
    first, second = full("a"), full("b")
    charts = together({"one": first, "two": second}, ["one", "two"])
    assert [chart["name"] for chart in charts] == ["Training loss", "val/accuracy"]
    assert charts[1]["columns"][0] == [x / 1000 for x in range(0, 1000, 100)]
    drawn = curves(first)["metrics"]
    assert [chart["name"] for chart in drawn] == ["a", "val/accuracy"]
    assert drawn[1]["x"] == list(range(0, 1000, 100))


def test_the_largest_number_there_is_is_drawn():
    found = full()
    found["metrics"] = [{"metric": "best", "x": 0, "value": sys.float_info.max}]
    assert curves(found)["metrics"][0]["y"] == [sys.float_info.max]


def test_curves_leave_gaps_where_nothing_is_finite():
    rows = empty(10)
    rows["loss"] = [{"x": 0, "low": None, "high": None, "mean": None, "broken": 3}, _point(5)]
    rows["boundaries"] = [{"x": 0, "loss": None, "rate": 0.1}, {"x": 5, "loss": float("inf"), "rate": 0.1}]
    assert curves(rows)["loss"] == {"x": [5], "mean": [None], "low": [1], "high": [2]}
    assert broken(rows) == 3


def _point(x):
    return {"x": x, "low": 1.0, "high": 2.0, "mean": 1.5, "broken": 0}
