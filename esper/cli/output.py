"""What the commands print: JSON, tables and one-line summaries. rich is imported when a table is drawn."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from esper.events.encoding.codec import jsonable

if TYPE_CHECKING:
    from esper.tamiyo.run.state import RunState, SeedState


def program() -> str:
    """How this program is called from here: ``esper`` where the shell finds it, else by its path."""
    called = Path(sys.argv[0])
    if called.name != "esper":
        return "python -m esper"
    found = shutil.which("esper")
    if found is not None and Path(found).resolve() == called.resolve():
        return "esper"
    return os.path.relpath(called)


def print_json(value: Any) -> None:
    """One JSON document on one line; NaN and infinities are strings."""
    click.echo(json.dumps(jsonable(value), allow_nan=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> None:
    """A table, as wide as the terminal or, where there is none, as its text."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def task_name(state: RunState) -> str | None:
    """The built-in task of a run; None where it was begun from Python."""
    return None if state.task is None else str(json.loads(state.task)["name"])


def summary_line(state: RunState) -> str:
    """The run in one line of words."""
    told = state.summary()
    parts = [f"{told['steps']:,} steps"]
    if told["final_loss"] is not None:
        parts.append(f"loss {told['final_loss']:.4g}")
    if told["test_accuracy"] is not None:
        parts.append(f"test accuracy {told['test_accuracy']:.2%}")
    parts.append(seeds_line(state))
    parts.append(f"{told['events']:,} events")
    return f"run {state.run_id} is {state.status}: {', '.join(parts)}"


def seeds_line(state: RunState) -> str:
    """Seeds by stage, in words."""
    counted = state.stages()
    return ", ".join(f"{count} {stage.lower()}" for stage, count in counted.items()) or "no seeds"


def print_seeds(state: RunState) -> None:
    """The table of the seeds with the evidence of their gates."""
    if not state.seeds:
        click.echo("no seed has germinated")
        return
    rows = [
        (seed.name, seed.site, seed.blueprint, seed.stage.value, f"{seed.since:,}", evidence_of(seed))
        for seed in state.seeds.values()
    ]
    print_table(("seed", "site", "blueprint", "stage", "since step", "evidence"), rows)


def evidence_of(seed: SeedState) -> str:
    """What the seed's gates said, the verdict and what came after it."""
    said = [
        f"{moved.gate}: {moved.evidence.reason}"
        for moved in seed.transitions
        if moved.evidence is not None and (moved.gate not in ("birth", "blend") or not moved.evidence.passed)
    ]
    ended = seed.transitions[-1]
    if ended.cause in ("command", "rollback"):
        said.append(f"culled by a {ended.cause}")
    return "\n".join(said) or "no verdict yet"
