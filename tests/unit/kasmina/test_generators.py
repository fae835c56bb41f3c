"""Capturing and restoring the global random generators."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from esper.kasmina.generators import capture, preserved, restore


@pytest.fixture(autouse=True)
def _left_alone() -> Iterator[None]:
    with preserved():
        yield


def draws() -> list[float]:
    return [float(torch.rand(())), np.random.rand(), np.random.randn(), random.random(), random.gauss(0, 1)]


def draw_and_fail() -> None:
    draws()
    raise ArithmeticError


def test_restored_generators_draw_the_same_numbers_again() -> None:
    state = capture()
    first = draws()
    assert draws() != first
    restore(state)
    assert draws() == first


def test_what_a_block_draws_leaves_no_trace_even_if_it_raises() -> None:
    state = capture()
    expected = draws()
    restore(state)
    with pytest.raises(ArithmeticError), preserved():
        draw_and_fail()
    assert draws() == expected


def test_the_gaussian_that_numpy_keeps_for_the_next_call_is_part_of_the_state() -> None:
    np.random.seed(3)
    states = [capture()]
    values = []
    for _ in range(4):
        values.append(np.random.randn())
        states.append(capture())
    for index in (1, 0, 3, 2, 3, 1):
        restore(states[index])
        assert np.random.randn() == values[index]


def test_a_state_that_only_differs_in_the_kept_gaussian_is_not_taken_for_the_same() -> None:
    np.random.seed(3)
    np.random.randn()
    kept = np.random.get_state()
    second = np.random.randn()
    used = capture()
    np.random.set_state(kept)
    state = capture()
    restore(used)
    assert np.random.randn() != second
    restore(state)
    assert np.random.randn() == second


def test_another_numpy_generator_is_captured_as_well() -> None:
    usual = np.random.get_bit_generator()
    try:
        np.random.set_bit_generator(np.random.PCG64(5))
        state = capture()
        first = np.random.rand()
        restore(state)
        assert np.random.rand() == first
    finally:
        np.random.set_bit_generator(usual)


def test_the_state_is_plain_data() -> None:
    def check(value: Any) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                assert isinstance(key, str)
                check(item)
        elif isinstance(value, tuple):
            for item in value:
                check(item)
        else:
            assert value is None or type(value) in (int, float, str, torch.Tensor)

    check(capture())


def test_a_state_that_was_written_and_read_as_lists_restores_too() -> None:
    state = capture()
    first = draws()
    version, internal, gauss = state["python"]
    numpy = dict(state["numpy"])
    numpy["state"] = {**numpy["state"], "key": {**numpy["state"]["key"]}}
    restore({**state, "python": [version, list(internal), gauss], "numpy": numpy, "torch": state["torch"].clone()})
    assert draws() == first
