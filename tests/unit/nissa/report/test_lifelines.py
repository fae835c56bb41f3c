"""The seeds' lives as bars over steps."""

from __future__ import annotations

from esper.nissa.report.lifelines import chosen, lifelines
from tests.support.runs.reporting import full


def test_lifelines_follow_the_rollback():
    lines = {line.seed: line for line in lifelines(full()["moves"], full()["rollbacks"], 1000)}
    removed, kept, undone = lines["fc1#1"], lines["fc1#2"], lines["fc1#3"]
    assert [(span.stage, span.start, span.end) for span in removed.spans] == [
        ("GERMINATED", 100, 150),
        ("TRAINING", 150, 400),
    ]
    assert (removed.gone, removed.fate) == (40.0, "removed at step 400")
    assert (kept.spans[-1].stage, kept.spans[-1].end, kept.gone) == ("FOSSILISED", 1000, None)
    assert (undone.fate, undone.gone) == ("undone by a rollback at step 900", 90.0)


def test_a_rollback_returns_a_seed_to_what_it_was():
    rows = full()
    back = [{"sequence": 50, "step": 750, "to_step": 520}]
    line = lifelines(rows["moves"][:8], back, 1000)[1]
    assert (line.stage, line.since) == ("TRAINING", 750)
    assert [span.stage for span in line.spans] == [
        "GERMINATED",
        "TRAINING",
        "BLENDING",
        "HOLDING",
        "FOSSILISED",
        "TRAINING",
    ]


def test_of_many_seeds_those_that_last_are_drawn():
    moves = [
        {"sequence": place, "step": 10, "seed": f"a#{place}", "site": "a", "blueprint": "b", "kernel": "k", "stage": to}
        for place, to in enumerate(["FOSSILISED", *["CULLED"] * 100])
    ]
    kept = [line.seed for line in chosen(lifelines(moves, [], 20), most=3)]
    assert kept == ["a#0", "a#99", "a#100"]
