"""How much the sink writes at once."""

from __future__ import annotations

from esper.nissa.sink.pacing import Bounds, adapted

BOUNDS = Bounds(20, 10_000)


def after(writes: int, cost: float, size: int, waiting: int = 1 << 30) -> int:
    """The size after so many writes, where a record takes ``cost`` seconds."""
    for _ in range(writes):
        written = min(size, waiting)
        size = adapted(size, written, written * cost, BOUNDS)
    return size


def test_a_write_comes_to_take_about_a_second() -> None:
    assert after(10, 0.001, 20) == 1000
    assert after(10, 0.001, 10_000) == 1000


def test_a_write_that_takes_too_long_is_followed_at_once_by_one_that_does_not() -> None:
    assert adapted(10_000, 10_000, 20.0, BOUNDS) == 500
    assert adapted(10_000, 400, 4.0, BOUNDS) == 100


def test_it_stays_between_its_bounds() -> None:
    assert after(20, 1e-9, 20) == 10_000
    assert after(20, 100.0, 20) == 20
    assert adapted(10_000, 10_000, 0.0, BOUNDS) == 10_000


def test_it_grows_by_no_more_than_twice_and_not_where_there_was_less_to_write() -> None:
    assert adapted(100, 100, 0.01, BOUNDS) == 200
    assert after(50, 0.001, 100, waiting=3) == 100
