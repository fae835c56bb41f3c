"""Pauses between attempts at what fails for a while."""

from __future__ import annotations

import random

JITTER = 0.5
"""Share of a pause that chance adds or takes away, so that many who wait do not come back at once."""
_chance = random.Random()  # the process's own generators belong to the training


class Backoff:
    """Pauses that double from ``first`` to ``longest`` seconds, each with jitter. One for each thing that is tried."""

    def __init__(self, first: float, longest: float, chance: random.Random = _chance) -> None:
        self._first, self._longest, self._chance = first, longest, chance
        self.failures = 0
        """Since the last success."""
        self._next = first

    def pause(self) -> float:
        """Seconds to wait after another failure: between half and one and a half times the pause that is due."""
        self.failures += 1
        due, self._next = self._next, min(2 * self._next, self._longest)
        return due * self._chance.uniform(1 - JITTER, 1 + JITTER)

    def reset(self) -> None:
        """It succeeded, or got on: the next pause is the first again."""
        self.failures, self._next = 0, self._first
