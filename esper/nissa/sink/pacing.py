"""How many records the sink writes at once, from how long the last write took. Pure."""

from __future__ import annotations

from dataclasses import dataclass

TARGET = 1.0
"""Seconds that one write shall take: the larger a write the cheaper a row, but a kill undoes all of it."""
MOST_BYTES = 16 << 20
"""On the log, of one write: some million rows of measurements."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Records of one write, at least and at most."""

    least: int
    most: int


def adapted(size: int, written: int, seconds: float, bounds: Bounds) -> int:
    """Records of the next write, after ``written`` of at most ``size`` took so many ``seconds``.

    It shrinks at once to what would have taken TARGET, and at most doubles; a write that had less to write, or was cut
    short by MOST_BYTES, is no reason to grow.
    """
    fitting = int(written * TARGET / max(seconds, 1e-3))
    if seconds <= TARGET:
        fitting = size if written < size else min(fitting, 2 * size)
    return min(max(fitting, bounds.least), bounds.most)
