"""How much the sink writes at once, and how it waits in trouble. Pure."""

from __future__ import annotations

from dataclasses import dataclass

TARGET = 1.0
"""Seconds that one write shall take: the larger a write the cheaper a row, but a kill undoes all of it."""
MOST_BYTES = 16 << 20
"""On the log, of one write: some million rows of measurements."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds to wait after trouble; each time twice as long, with jitter."""
OPEN_AFTER = 6
"""Failures in a row after which the sink only probes whether the trouble has passed."""


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


@dataclass(frozen=True, slots=True)
class Patience:
    """What failures in a row have come to."""

    failures: int = 0
    probing: bool = False
    """The sink does nothing but ask now and then whether the trouble has passed."""

    def failed(self) -> Patience:
        return Patience(self.failures + 1, self.failures + 1 >= OPEN_AFTER)

    def probed(self) -> Patience:
        """A probe succeeded: work is tried again, and one more failure is enough to go back to probing."""
        return Patience(self.failures)

    def pause(self, jitter: float) -> float:
        """Seconds to wait; ``jitter`` is between 0.5 and 1.5."""
        longest = self.probing or self.failures > OPEN_AFTER
        return jitter * (LONGEST_PAUSE if longest else min(FIRST_PAUSE * 2.0 ** (self.failures - 1), LONGEST_PAUSE))
