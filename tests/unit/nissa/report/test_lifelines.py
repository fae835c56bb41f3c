"""The seeds' lives as bars over steps."""

from __future__ import annotations

import pytest

from esper.nissa.report.lifelines import Lifeline, chosen, lifelines
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


def test_those_that_are_drawn_keep_their_order_and_the_latest_come_first_in_the_choice() -> None:
    def one(place: int, stage: str) -> Lifeline:
        return Lifeline(f"a#{place}", "a", "b", "k", stage, since=1, born=1, spans=(), gone=None)

    lines = [one(1, "CULLED"), one(2, "TRAINING"), one(3, "REMOVED"), one(4, "FOSSILISED")]
    assert [[line.seed for line in chosen(lines, most)] for most in (1, 2, 3, 4, 9)] == [
        ["a#4"],
        ["a#2", "a#4"],
        ["a#2", "a#3", "a#4"],
        ["a#1", "a#2", "a#3", "a#4"],
        ["a#1", "a#2", "a#3", "a#4"],
    ]


@pytest.mark.parametrize(
    ("stage", "fate"),
    [
        ("FOSSILISED", "became part of the network at step 1,200"),
        ("CULLED", "removed at step 1,200"),
        ("REMOVED", "undone by a rollback at step 1,200"),
        ("HOLDING", "holding since step 1,200"),
    ],
)
def test_a_fate_in_words(stage: str, fate: str) -> None:
    line = Lifeline("a#1", "a", "b", "k", stage, since=1200, born=1, spans=(), gone=None)
    assert line.fate == fate


def test_a_span_is_placed_by_its_share_of_the_run() -> None:
    [first, *_] = lifelines(full()["moves"], [], 2000)
    assert [(span.left, span.width, span.title) for span in first.spans] == [
        (5.0, 2.5, "germinated: steps 100 to 150"),
        (7.5, 12.5, "training: steps 150 to 400"),
    ]
    assert (first.born, first.gone, first.kernel) == (100, 20.0, "ab")


def test_a_seed_of_a_run_without_steps_has_a_place() -> None:
    move = {"sequence": 1, "step": 0, "seed": "a#1", "site": "a", "blueprint": "b", "kernel": "k", "stage": "TRAINING"}
    [line] = lifelines([move], [], 0)
    assert [(span.left, span.width) for span in line.spans] == [(0.0, 0.0)]
