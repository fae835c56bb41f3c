"""Makes filling ClickHouse faster: the next batch is prepared while one is written, without Python's garbage
collector."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterator[T], goes_on: Callable[[], bool]) -> Iterator[T]:
    """``items`` in their order; while one is used the next is made in another thread. Ends early once ``goes_on`` says
    no."""
    with ThreadPoolExecutor(1, "esper-ahead") as pool:
        coming = pool.submit(_next, items)
        while (made := coming.result()) and goes_on():
            coming = pool.submit(_next, items)
            yield made[0]


@contextmanager
def uncollected() -> Iterator[None]:
    """Pause Python's search for cycles: a batch's many small objects are in none, and it took a third of the time that
    making them takes."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _next(items: Iterator[T]) -> tuple[T, ...]:
    for item in items:
        return (item,)
    return ()
