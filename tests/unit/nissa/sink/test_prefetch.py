"""Making the next batch while one is written."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import pytest

from esper.nissa.sink.prefetch import ahead, uncollected


def counted(made: list[int], end: int = 5) -> Iterator[int]:
    for number in range(end):
        made.append(number)
        yield number


def test_all_come_in_order_and_the_thread_goes() -> None:
    assert list(ahead(counted([]), lambda: True)) == list(range(5))
    assert not [each for each in threading.enumerate() if each.name.startswith("esper-ahead")]


def test_who_may_not_go_on_waits_for_no_more_than_was_begun() -> None:
    made: list[int] = []
    assert list(ahead(counted(made), lambda: False)) == []
    assert made == [0]


def test_an_error_in_the_thread_comes_when_its_item_would() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("no second")

    coming = ahead(failing(), lambda: True)
    assert next(coming) == 1
    with pytest.raises(ValueError, match="no second"):
        next(coming)


def test_who_leaves_early_leaves_no_thread_and_no_generator_open() -> None:
    closed = []

    def items() -> Iterator[int]:
        try:
            yield from range(5)
        finally:
            closed.append(True)

    for item in ahead(items(), lambda: True):
        if item == 2:
            break
    assert closed
    assert not [each for each in threading.enumerate() if each.name.startswith("esper-ahead")]


def test_the_collector_is_on_again_after_two_threads_that_do_without() -> None:
    inside, leave = threading.Barrier(2), threading.Barrier(2)

    def work() -> None:
        with uncollected():
            inside.wait()
            leave.wait()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert gc.isenabled()
