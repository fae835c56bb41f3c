"""docs/prometheus.md's table of series against what trainers, workers and sinks serve."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any, cast

from esper.errors import LogError
from esper.nissa.sink.process import lag
from tests.support.paths import ROOT
from tests.support.services.measured import Served, served

PAGE = (ROOT / "docs" / "prometheus.md").read_text("utf-8")
ROW = re.compile(r"^\| `(esper_\w+)(?:\{([\w, ]+)\})?` \| (\w+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


def _rows(each: Served) -> list[tuple[str, str, str, str]]:
    """Name, labels, type and meaning."""
    return [
        (name, ", ".join(family.samples[0].labels), family.type, family.documentation)
        for name, family in each.series.items()
    ]


def test_the_table_has_every_series_as_it_is_served_and_no_other() -> None:
    told = [(name, labels, kind, meaning) for name, labels, kind, _, meaning in ROW.findall(PAGE)]
    assert told == [row for each in served() for row in _rows(each)]


def test_a_unit_in_a_name_is_that_of_the_table() -> None:
    for name, _, _, unit, _ in ROW.findall(PAGE):
        assert unit == "s" or "_seconds" not in name, name


def test_a_sink_whose_log_is_away_still_says_that_it_waits() -> None:
    class Away:
        def bounds(self, topic: str) -> None:
            raise LogError("nobody answers")

    sink: Any = SimpleNamespace(places={})
    assert lag(sink, cast(Any, Away())) == {}
