"""What the gates measured, in words and as places on a line."""

from __future__ import annotations

from typing import Any

import pytest

from esper.nissa.report.evidence import SHOWN, Drawing, brief, measured
from tests.support.runs.reporting import full

FAILED, PASSED, AUDIT, FINITE = full()["gates"]
HARMFUL = {**AUDIT, "passed": False, "mean": -0.03, "bound": -0.01}
CHANCE = {**FAILED, "mean": 0.001, "bound": -0.02}


@pytest.mark.parametrize(
    ("row", "question", "answer"),
    [
        (
            FAILED,
            "Does it help?",
            "With the seed the loss is higher by 0.001 on 100 held-out examples. The bound of its gain is −0.02; it "
            "has to be more than 0.0021.",
        ),
        (
            CHANCE,
            "Does it help?",
            "With the seed the loss is lower by 0.001 on 100 held-out examples, but that may be chance: the bound of "
            "its gain, −0.02, is not more than 0.0021.",
        ),
        (
            PASSED,
            "Does it help?",
            "With the seed the loss is lower by 0.03 on 100 held-out examples, and surely lower by at least 0.01: more "
            "than the 0.0021 that it has to bring.",
        ),
        (
            AUDIT,
            "Did blending it in do harm?",
            "Since blending began the loss fell by 0.01 on 100 held-out examples. The bound of its fall, 0.02, is not "
            "below −0.002, which would be a rise beyond doubt.",
        ),
        (
            HARMFUL,
            "Did blending it in do harm?",
            "Since blending began the loss rose by 0.03 on 100 held-out examples, surely by at least 0.01: more than "
            "the 0.002 that is tolerated.",
        ),
        (FINITE, "Are its numbers finite?", "because of fc1"),
        ({**FINITE, "gate": "new"}, "May it go on?", "because of fc1"),
        ({**FAILED, "mean": None}, "Does it help?", "because of fc1"),
    ],
)
def test_a_gate_is_a_question_and_its_answer(row: dict[str, Any], question: str, answer: str) -> None:
    [gate] = measured([row])
    assert (gate.question, gate.answer) == (question, answer)


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (FAILED, "It raises the loss on held-out examples by 0.001"),
        (CHANCE, "That it lowers the loss on held-out examples by 0.001 may be chance; 0.0021 was asked for"),
        (
            PASSED,
            "It lowers the loss on held-out examples by 0.03, surely by at least 0.01; 0.0021 was asked for",
        ),
        (AUDIT, "Since blending began the loss on held-out examples fell by 0.01"),
        (HARMFUL, "Since blending began the loss on held-out examples rose by 0.03, surely by at least 0.01"),
        (FINITE, "because of fc1"),
        ({**FAILED, "bound": None}, "because of fc1"),
    ],
)
def test_a_gate_in_a_line(row: dict[str, Any], text: str) -> None:
    assert brief(row) == text


def test_one_example_is_an_example_and_none_are_not_counted() -> None:
    [one, none] = measured([{**PASSED, "n": 1}, {**PASSED, "n": None}])
    assert "by 0.03 on 1 held-out example, and" in one.answer
    assert "by 0.03 on held-out examples, and" in none.answer


def test_its_numbers_are_those_that_there_are() -> None:
    told = [gate.numbers for gate in measured([FAILED, AUDIT, FINITE])]
    assert told == [
        (("mean", "−0.001"), ("bound", "−0.02"), ("threshold", "0.0021")),
        (("mean", "0.01"), ("bound", "0.02"), ("threshold", "−0.002"), ("loss without it", "+0.01")),
        (),
    ]


def test_the_drawing_has_its_places_in_the_order_of_their_values_with_a_margin_on_both_sides() -> None:
    failed, passed = (gate.drawing for gate in measured([FAILED, PASSED]))
    assert failed is not None
    assert passed is not None
    assert failed.bound < failed.mean < failed.zero < failed.threshold
    assert (failed.bound, failed.threshold) == (9.68, 90.32)
    assert (passed.zero, passed.mean) == (9.68, 90.32)
    assert (failed.left, failed.width) == (failed.bound, failed.mean - failed.bound)
    assert Drawing(zero=0, threshold=0, bound=70, mean=30).left == 30


def test_a_line_on_which_all_is_zero_has_it_in_its_middle() -> None:
    [gate] = measured([{**FAILED, "mean": 0.0, "bound": 0.0, "delta": 0.0, "rent": 0.0}])
    assert gate.drawing == Drawing(zero=50.0, threshold=50.0, bound=50.0, mean=50.0)


@pytest.mark.parametrize("missing", ["mean", "bound", "delta"])
def test_what_was_not_measured_is_not_drawn(missing: str) -> None:
    [gate] = measured([{**FAILED, missing: None}])
    assert gate.drawing is None


def test_gates_that_measured_nothing_are_told_where_a_seed_did_not_pass_and_only_the_last_are() -> None:
    birth = {**FINITE, "gate": "birth", "passed": True}
    assert [gate.gate for gate in measured([birth, FINITE, PASSED])] == ["finite", "verdict"]
    steps = [gate.step for gate in measured([{**PASSED, "step": step} for step in range(SHOWN + 2)])]
    assert steps == list(range(2, SHOWN + 2))
