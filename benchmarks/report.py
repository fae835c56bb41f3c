"""Figures with their targets, printed as a table and kept as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value. ``target`` is in words; ``met`` is None for what is printed as information only."""

    name: str
    value: float
    target: str = ""
    met: bool | None = None


def at_most(name: str, value: float, limit: float) -> Figure:
    return Figure(name, value, f"at most {_plain(limit)}", value <= limit)


def at_least(name: str, value: float, limit: float) -> Figure:
    return Figure(name, value, f"at least {_plain(limit)}", value >= limit)


def print_table(title: str, figures: Sequence[Figure]) -> None:
    """The figures under ``title``, one a line."""
    table = Table(title=title, title_justify="left", title_style="bold", min_width=80)
    table.add_column("figure")
    table.add_column("measured", justify="right")
    table.add_column("target")
    table.add_column("met")
    for figure in figures:
        met = "" if figure.met is None else "[green]yes[/]" if figure.met else "[red]NO[/]"
        table.add_row(figure.name, _plain(figure.value), figure.target, met)
    Console().print(table)


def as_json(title: str, figures: Sequence[Figure]) -> dict[str, Any]:
    """The figures and where they were measured, as plain values."""
    machine = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
    }
    return {"title": title, "machine": machine, "figures": [asdict(figure) for figure in figures]}


def write_json(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")


@contextmanager
def temporary_home() -> Iterator[str]:
    """An empty folder on the disk of the working directory, as a run's home has it."""
    with TemporaryDirectory(prefix=".bench-", dir=".") as folder:
        yield folder


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.4g}"
