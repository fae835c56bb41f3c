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


def test_columns_are_as_long_as_their_steps_and_have_gaps_where_nothing_was_measured():
    rows = full(steps=100)
    rows["boundaries"] = [{"x": 50, "loss": 0.123456789, "rate": 0.1}]
    rows["rate"] = [{"x": 10, "value": 0.2}]
    rows["loss"] = [_point(0)]
    drawn = curves(rows)
    assert drawn["loss"] == {"x": [0, 50], "mean": [None, 0.12346], "low": [1.0, None], "high": [2.0, None]}
    assert drawn["rate"] == {"x": [10], "rate": [0.2]}


def test_without_telemetry_rate_and_loss_are_the_boundaries():
    rows = empty(10)
    rows["boundaries"] = [{"x": 5, "loss": 1.5, "rate": 0.1}]
    drawn = curves(rows)
    assert (drawn["loss"], drawn["rate"]) == ({"x": [5], "mean": [1.5]}, {"x": [5], "rate": [0.1]})
    assert drawn["norms"] == {"x": [], "sites": [], "columns": []}


def test_norms_have_a_column_for_each_site_and_one_for_the_seeds_which_is_last():
    rows = empty(10)
    rows["norms"] = [
        {"x": x, "line": line, "value": value} for x, line, value in ((1, "b", 1), (1, "", 3), (2, "a", 2))
    ]
    assert curves(rows)["norms"] == {"x": [1, 2], "sites": ["a", "b"], "columns": [[None, 2], [1, None], [3, None]]}


def test_a_metric_that_one_run_alone_has_is_not_compared():
    first, second = full("a"), full("b")
    first["metrics"] = [{"metric": "only", "x": 1, "value": 1.0}]
    assert [chart["name"] for chart in together({"one": first, "two": second}, ["1", "2"])] == ["Training loss"]
    [loss] = together({"one": first, "two": empty()}, ["1", "2"])
    assert loss["runs"] == ["1", "2"]
    assert set(loss["columns"][1]) == {None}
    assert len(loss["x"]) == len(loss["columns"][0]) == len(loss["columns"][1])
