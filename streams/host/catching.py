"""Tells when a worker has caught up: its views have all that lay in its partitions when it was given them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from faust.types import TP

Place = Callable[[TP], tuple[int, int] | None]
"""Where reading of a partition is, and where what is committed there ends; None while that is not known."""


class CatchingUp:
    """Follows the reading of the partitions last assigned. Offsets have holes (markers, aborted records), so a
    partition has caught up when reading has passed its end and the last record that came before is done."""

    def __init__(self, committable: Callable[[TP], int | None]) -> None:
        self._committable = committable
        self._left: set[TP] | None = None
        self._ends: dict[TP, int] = {}
        self._taken: dict[TP, int] = {}
        self._wanted: dict[TP, int] = {}

    @property
    def done(self) -> bool:
        """Whether all partitions have caught up; False until ``begin`` has told which."""
        return self._left is not None and not self._left

    @property
    def left(self) -> int:
        """How many partitions have not caught up."""
        return len(self._left or ())

    def begin(self, sources: Iterable[TP]) -> None:
        """These partitions are read from now on; their ends are what is first told of them."""
        self._left = set(sources)
        for known in (self._ends, self._taken, self._wanted):
            known.clear()

    def look(self, records: Mapping[TP, Sequence[Any]], place: Place) -> None:
        """Reading has just brought ``records``, and all before the places that ``place`` tells."""
        self._taken |= {tp: found[-1].offset + 1 for tp, found in records.items() if found}
        for tp in list(self._left or ()):
            if (found := place(tp)) is None:
                continue
            position, end = found
            if position >= self._ends.setdefault(tp, end):
                wanted = self._wanted.setdefault(tp, self._taken.get(tp, 0))
                if (self._committable(tp) or 0) >= wanted:
                    self._left.discard(tp)  # type: ignore[union-attr]
