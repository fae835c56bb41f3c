"""A database with many rows, made in it: see ``many_rows.sql`` for what they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

PER_STEP = 5.6
"""Measurements of a step."""


def fill(client: Client, rows: int, *, measured: int, others: int, noise: float) -> int:
    """Fill Esper's tables: some ``rows`` of telemetry, of ``measured`` runs, and the events of these and ``others``.
    Returns the number of steps of a measured run."""
    steps = max(1, round(rows / PER_STEP / measured / 1600)) * 1600
    given = {"measured": measured, "others": others, "steps": steps, "beyond": steps // 1600 * 16, "noise": noise}
    _run(client, "many_rows.sql", given)
    for r in range(measured):
        _run(client, "many_rows_telemetry.sql", given | {"r": r})
    return steps


def _run(client: Client, file: str, given: dict[str, float]) -> None:
    text = (Path(__file__).parent / file).read_text("utf-8")
    text = "\n".join(line for line in text.splitlines() if not line.strip().startswith("--"))
    for statement in filter(None, map(str.strip, text.split(";\n"))):
        named = {name: value for name, value in given.items() if f"{{{name}:" in statement}
        client.command(statement, parameters=named or None)
