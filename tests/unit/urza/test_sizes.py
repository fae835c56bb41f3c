"""Sizes as data."""

from __future__ import annotations

from typing import Any

import pytest

from esper.errors import UsageError
from esper.urza.sizes import positive, value_of


@pytest.mark.parametrize(
    ("size", "number"),
    [
        (8, 8),
        ("in", 20),
        ({"min": [8, {"div": ["in", 2]}]}, 8),
        ({"max": [1, {"div": ["out", 7]}]}, 1),
        ({"mul": ["in", "out", 2]}, 200),
        ({"div": ["in", {"div": ["out", 6]}]}, 0),
    ],
)
def test_a_size_is_computed_from_data(size: Any, number: int) -> None:
    assert value_of(size, {"in": 20, "out": 5}) == number


def test_division_rounds_down_and_by_nothing_gives_nothing() -> None:
    assert value_of({"div": [7, 2]}, {}) == 3
    assert value_of({"div": [7, {"div": [1, 2]}]}, {}) == 0
    assert value_of({"div": [100, 5, 2]}, {}) == 10


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ("width", "the size 'width' is not defined; there are in, out"),
        ({"min": [1, 2], "max": [1, 2]}, "a size has one operator, not 2; nest them"),
        ({}, "a size has one operator, not 0; nest them"),
        ({"mul": [2**20, 2**20, 2]}, f"a size of {2**41} is too large; the largest is {2**40}"),
    ],
)
def test_what_is_no_size_is_refused_in_words(size: Any, words: str) -> None:
    with pytest.raises(UsageError) as raised:
        value_of(size, {"out": 5, "in": 20})
    assert str(raised.value) == words


def test_the_largest_size_is_allowed() -> None:
    assert value_of({"mul": [2**20, 2**20]}, {}) == 2**40


def test_a_size_below_one_is_refused_by_what_it_is_of() -> None:
    assert positive("the width", {"div": ["in", 20]}, {"in": 20}) == 1
    with pytest.raises(UsageError, match=r"^the width is 0; it must be at least 1$"):
        positive("the width", {"div": ["in", 21]}, {"in": 20})
