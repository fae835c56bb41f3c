"""Sizes as data."""

from __future__ import annotations

from typing import Any

import pytest

from esper.urza.sizes import value_of


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
