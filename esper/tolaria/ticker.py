"""The progress line that a user's own program shows on a terminal while it trains."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TextIO

from esper.tamiyo.advice.outlook import outlook

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from esper.tolaria.trainer import Trainer

PER_SECOND = 2
"""How often the line is drawn, by a thread of its own: training does nothing for it."""


def ticking(trainer: Trainer, wanted: bool) -> AbstractContextManager[object]:
    """Shows steps, pace, loss, living seeds and what comes next on stderr for as long as it is entered; nothing where
    stderr is no terminal, or it is not wanted.

    The lines that the program prints meanwhile stand above. One that draws on a line itself (a bar, a question) has
    the terminal from then on.
    """
    return _shown(_Line(trainer).draw) if wanted and sys.stderr.isatty() else nullcontext()


@contextmanager
def _shown(draw: Callable[[], Text]) -> Iterator[None]:
    from rich.console import Console
    from rich.live import Live

    streams = sys.stdout, sys.stderr
    console = Console(file=sys.stderr)
    live = Live(
        get_renderable=draw,
        console=console,
        refresh_per_second=PER_SECOND,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )

    def give_way() -> None:
        live.stop()
        out, err = above
        if sys.stdout is out:
            sys.stdout = streams[0]
        if sys.stderr is err:
            sys.stderr = streams[1]
        for each in above:
            each.let_through()

    live.start()
    above = [_Above(stream, console, give_way) for stream in streams]
    _EVER.extend(above)
    sys.stderr = above[1]
    if sys.stdout.isatty():
        sys.stdout = above[0]
    try:
        yield
    finally:
        give_way()


_EVER: list[object] = []
"""What once stood for a stream: ``print`` borrows it without holding it, and would crash were it gone meanwhile."""


class _Above:
    """A stream whose whole lines go above the live line; it gives way where something else than whole lines comes."""

    def __init__(self, stream: TextIO, console: Console, give_way: Callable[[], None]) -> None:
        self._stream, self._console, self._give_way = stream, console, give_way
        self._begun = ""  # of a line
        self._through = False  # the line is gone

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if self._through:
            return self._stream.write(text)
        self._begun += text
        if "\r" in self._begun.replace("\r\n", "\n"):
            self._give_way()
            return len(text)
        lines, newline, self._begun = self._begun.rpartition("\n")
        if newline:
            from rich.text import Text

            self._console.print(Text.from_ansi(lines), soft_wrap=True, highlight=False)
        return len(text)

    def writelines(self, lines: Iterator[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self._begun:
            self._give_way()
        self._stream.flush()

    def let_through(self) -> None:
        """Write what has begun, and all that comes from now on, to the stream itself."""
        begun, self._begun, self._through = self._begun, "", True
        self._stream.write(begun)
        self._stream.flush()


class _Line:
    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._seen = time.monotonic(), trainer.step
        self._pace = 0.0
        self._outlook = -1, ""

    def draw(self) -> Text:
        from rich.text import Text

        state, step = self._trainer.journal.latest, self._trainer.step
        parts = [f"step {step:,}"]
        if pace := self._measured(step):
            parts.append(f"{pace:.3g} steps/s")
        if state.loss is not None:
            parts.append(f"loss {state.loss:.4g}")
        if self._outlook[0] != state.decisions:  # of many sites it takes milliseconds
            self._outlook = state.decisions, outlook(state)
        living = len(state.live_seeds())
        parts += ["1 live seed" if living == 1 else f"{living} live seeds", self._outlook[1]]
        return Text("  ".join(parts), no_wrap=True, overflow="ellipsis")

    def _measured(self, step: int) -> float:
        """Steps a second: of the last look, and half as much of each one before."""
        now, (then, before) = time.monotonic(), self._seen
        if step > before and now - then > 0.2:
            pace = (step - before) / (now - then)
            self._pace = (self._pace + pace) / 2 if self._pace else pace
            self._seen = now, step
        return self._pace
