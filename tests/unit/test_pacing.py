"""How much the sink writes at once, and how it waits in trouble."""

from __future__ import annotations

from esper.nissa.pacing import FIRST_PAUSE, LONGEST_PAUSE, OPEN_AFTER, Bounds, Patience, adapted

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


def failed(times: int) -> Patience:
    patience = Patience()
    for _ in range(times):
        patience = patience.failed()
    return patience


def test_pauses_double_up_to_the_longest_and_have_jitter() -> None:
    pauses = [failed(times).pause(1.0) for times in range(1, OPEN_AFTER)]
    assert pauses == [FIRST_PAUSE * 2**each for each in range(OPEN_AFTER - 1)]
    assert failed(2).pause(0.5) == pauses[1] / 2
    assert failed(100).pause(1.0) == LONGEST_PAUSE


def test_after_many_failures_in_a_row_it_only_probes_until_a_probe_succeeds() -> None:
    assert not failed(OPEN_AFTER - 1).probing
    probing = failed(OPEN_AFTER)
    assert probing.probing
    assert probing.pause(1.0) == LONGEST_PAUSE
    tried = probing.probed()
    assert not tried.probing
    assert tried.failed().probing
