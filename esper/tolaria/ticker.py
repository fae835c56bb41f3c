"""The line that a program of one's own shows on a terminal while it trains."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from esper.tamiyo.outlook import outlook

if TYPE_CHECKING:
    from rich.text import Text

    from esper.tolaria.trainer import Trainer

PER_SECOND = 2
"""How often the line is drawn, by a thread of its own: training does nothing for it."""


def ticking(trainer: Trainer, wanted: bool) -> AbstractContextManager[object]:
    """Shows steps, pace, loss, living seeds and what comes next on stderr for as long as it is entered; nothing where
    stderr is no terminal, or it is not wanted. What the program prints meanwhile stands above the line."""
    if not wanted or not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console
    from rich.live import Live

    return Live(
        get_renderable=_Line(trainer).draw,
        console=Console(stderr=True),
        refresh_per_second=PER_SECOND,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # rich would send it where stderr goes
    )


class _Line:
    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._seen = time.monotonic(), trainer.step
        self._pace = 0.0

    def draw(self) -> Text:
        from rich.text import Text

        state, step = self._trainer.journal.latest, self._trainer.step
        parts = [f"step {step:,}"]
        if pace := self._measured(step):
            parts.append(f"{pace:.3g} steps/s")
        if state.loss is not None:
            parts.append(f"loss {state.loss:.4g}")
        living = len(state.live_seeds())
        parts += ["1 live seed" if living == 1 else f"{living} live seeds", outlook(state)]
        return Text("  ".join(parts), no_wrap=True, overflow="ellipsis")

    def _measured(self, step: int) -> float:
        """Steps a second: of the last look, and half as much of each one before."""
        now, (then, before) = time.monotonic(), self._seen
        if step > before and now - then > 0.2:
            pace = (step - before) / (now - then)
            self._pace = (self._pace + pace) / 2 if self._pace else pace
            self._seen = now, step
        return self._pace
