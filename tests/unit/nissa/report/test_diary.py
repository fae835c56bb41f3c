"""A run's diary."""

from __future__ import annotations

from esper.nissa.report.diary import diary
from tests.support.runs.reporting import full


def test_the_diary_is_in_the_order_of_events():
    entries, left_out = diary(full())
    assert [entry.sequence for entry in entries] == sorted(entry.sequence for entry in entries)
    assert [entry.kind for entry in entries] == ["wait", "cull", "grow", "blend", "keep", "stop", "stop", "end"]
    assert (entries[2].title, left_out) == ("Try fc1 at fc1", 0)
    assert "by 0.001" in entries[1].text


def test_the_diary_does_not_say_twice_what_is_tried():
    rows = full()
    rows["decisions"][1]["reason"] = "fc1 (3,700 parameters) at fc1: gradient norm 0.4; nothing was tried there yet"
    told = diary(rows)[0][2]
    assert told.text == "3,700 parameters; gradient norm 0.4; nothing was tried there yet (proposed by fc1)"
