"""``esper watch``: a run as it goes on, from its log. Imports no torch."""

from __future__ import annotations

import sys
import threading
from datetime import datetime
from typing import TYPE_CHECKING

import click

from esper.cli.options import Place, common
from esper.cli.output import evidence_of, seeds_line, summary_line
from esper.cli.runs.reading import log_with
from esper.errors import UsageError
from esper.events import Event
from esper.events.runs import BoundaryReached
from esper.events.topics import RUNS
from esper.log.exclusions import order_of
from esper.tamiyo.advice.outlook import outlook
from esper.tamiyo.run.fold import fold
from esper.tamiyo.run.state import ENDED, RunState

if TYPE_CHECKING:
    from rich.console import RenderableType

SEEDS, METRICS = 12, 8  # that the table has room for, the latest
COLUMNS = {"seed": 6, "site": 6, "blueprint": 6, "stage": 10, "since step": 10, "gain": 8, "evidence": 8}
"""And their least widths in characters."""


@click.command()
@click.argument("run_id", metavar="RUN")
@common
def watch(place: Place, run_id: str) -> None:
    """Watch a run as it goes on, until it is over or Ctrl-C: step, pace, loss, metrics, seeds and what comes next.

    It reads the log, so it may run anywhere and costs the training nothing.
    """
    if place.json or not sys.stdout.isatty():
        raise UsageError(
            "esper watch draws a table on a terminal; esper events RUN --follow [--json] gives a line for each event"
        )
    from rich.live import Live

    log, watched = log_with(place, run_id), _Watched(run_id)
    try:
        with Live(get_renderable=watched.table, refresh_per_second=4):
            for _, event in order_of(log, run_id).over(log.follow(RUNS, key=run_id, stop=threading.Event())):
                watched.take(event)
                if watched.state.status in ENDED:
                    break
    except KeyboardInterrupt:
        pass
    click.echo(summary_line(watched.state))


class _Watched:
    """A run as far as it was read, and its pace: steps a second between its last two boundaries."""

    def __init__(self, run_id: str) -> None:
        self.state = RunState(run_id)
        self._reached: tuple[datetime, int] | None = None
        self._pace: float | None = None

    def take(self, event: Event) -> None:
        self.state = fold(self.state, [event])
        if isinstance(event.content, BoundaryReached):
            now, before = (event.envelope.time, event.content.step), self._reached
            if before is not None and (seconds := (now[0] - before[0]).total_seconds()) > 0 and now[1] > before[1]:
                self._pace = (now[1] - before[1]) / seconds
            self._reached = now

    def table(self) -> RenderableType:
        """All of it, as rich draws it."""
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        state = self.state
        lines = [Text(line, no_wrap=True, overflow="ellipsis") for line in self._lines()]
        if not state.seeds:
            return Group(*lines)
        seeds = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column, width in COLUMNS.items():
            seeds.add_column(column, overflow="ellipsis", no_wrap=True, min_width=width)
        ordered = sorted(state.seeds.values(), key=lambda seed: (not seed.live, -seed.transitions[0].step))
        for seed in ordered[:SEEDS]:
            gain = f"{seed.trials[-1][1].mean:.3g}" if seed.trials else ""
            told = evidence_of(seed).partition("\n")[0]
            cells = (seed.name, seed.site, seed.blueprint, seed.stage.value, f"{seed.since:,}", gain, told)
            seeds.add_row(*map(Text, cells))
        more = [Text(f"and {len(ordered) - SEEDS} seeds before them")] if len(ordered) > SEEDS else []
        return Group(*lines, seeds, *more)

    def _lines(self) -> list[str]:
        state = self.state
        called = f"{state.run_id} ({state.name})" if state.name else state.run_id
        parts = [f"run {called} is {state.status}", f"step {state.step:,} of epoch {state.epoch}"]
        if self._pace is not None and state.status == "running":
            parts.append(f"{self._pace:.3g} steps/s")
        if (loss := state.last_loss()) is not None:
            parts.append(f"loss {loss:.4g}")
        lines = ["  ".join([*parts, seeds_line(state)])]
        if state.metrics:
            shown = list(state.metrics.items())[-METRICS:]
            lines.append("  ".join(f"{name} {metric.value:.4g}" for name, metric in shown))
        if state.status not in ENDED and state.sites is not None:
            lines.append(f"next: {outlook(state)}")
        return lines
