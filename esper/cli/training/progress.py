"""What ``train`` and ``resume`` show while they run, on stderr: a bar in a terminal, else a line an epoch."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

import click

from esper.cli.options import Place

if TYPE_CHECKING:
    from esper.tolaria import Run

_EVERY = 0.1  # seconds between two updates of the bar


class Progress:
    """Shows nothing: what ``--json`` wants."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def say(self, line: str) -> None:
        """Something to know before the first step."""

    def step(self, run: Run, loss: float) -> None:
        """A step was done."""

    def epoch(self, run: Run, number: int, accuracy: float) -> None:
        """An epoch was done; ``accuracy`` is of the gate examples."""

    def close(self) -> None:
        """Show no more."""


class Lines(Progress):
    """One line for each epoch."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._loss = float("nan")

    def say(self, line: str) -> None:
        """Print the line."""
        click.echo(line, err=True)

    def step(self, run: Run, loss: float) -> None:
        """Keep the loss for the epoch's line."""
        self._loss = loss

    def epoch(self, run: Run, number: int, accuracy: float) -> None:
        """Print the epoch's line."""
        click.echo(
            f"epoch {number}: step {run.step_number:,}, loss {self._loss:.4g}, gate accuracy {accuracy:.2%}, "
            f"{_live(run)} live seeds, {run.events_written:,} events",
            err=True,
        )


class Bar(Progress):
    """A progress bar with loss, accuracy, live seeds and events written."""

    def __init__(self, place: Place, steps: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        super().__init__(place)
        self._bar = RichProgress(
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            refresh_per_second=4,
        )
        self._task = self._bar.add_task("training", total=steps, told="")
        self._accuracy: float | None = None
        self._shown = 0.0
        self._bar.start()

    def say(self, line: str) -> None:
        """Print the line above the bar."""
        self._bar.console.print(line, highlight=False)

    def step(self, run: Run, loss: float) -> None:
        """Move the bar, ten times a second at most."""
        now = time.monotonic()
        if now - self._shown < _EVERY:
            return
        self._shown = now
        accuracy = "" if self._accuracy is None else f"accuracy {self._accuracy:.1%}  "
        told = f"loss {loss:.3g}  {accuracy}{_live(run)} live  {run.events_written:,} events"
        self._bar.update(self._task, completed=run.step_number, told=told)

    def epoch(self, run: Run, number: int, accuracy: float) -> None:
        """Move the bar, which shows this accuracy from now on."""
        self._accuracy = accuracy
        self._bar.update(self._task, completed=run.step_number)

    def close(self) -> None:
        """Stop drawing; the bar stays on the terminal as it is."""
        self._bar.stop()


def progress_for(place: Place, steps: int) -> Progress:
    """What suits the output: nothing beside JSON, a bar in a terminal, lines elsewhere."""
    if place.json:
        return Progress(place)
    return Bar(place, steps) if sys.stderr.isatty() else Lines(place)


def _live(run: Run) -> int:
    return len(run.state.live_seeds())
