"""The losses between two boundaries of a run, of which a boundary tells the mean."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(slots=True)
class Window:
    """Losses since the last boundary, and whether the optimiser has ever stepped."""

    total: float = 0.0
    count: int = 0
    last: float = math.nan
    updates: int = 0

    def add(self, loss: float) -> None:
        """Take the loss of a step whose update was made."""
        self.total += loss
        self.count += 1
        self.last = loss
        self.updates += 1

    def mean(self) -> float:
        """The mean since the last boundary; NaN before the first step after it."""
        return self.total / self.count if self.count else math.nan
