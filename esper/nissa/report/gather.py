"""What the report needs of a run, asked of the database: rows by the name of the query in ``sql`` that gives them.

However long the run and however many its sites, it is a bounded number of rows, but for the seeds' moves and gates.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

from esper.errors import RunNotFound

Ask = Callable[[str, Mapping[str, str], str], bytes]
"""SQL, its parameters, the format of the answer."""
Rows = list[dict[str, Any]]
Gathered = dict[str, Rows]

POINTS = 500
"""A curve has at most so many."""
LINES = 5
"""Sites whose gradients are drawn."""
METRICS = 24
"""Metrics of the program's own that are drawn."""
ENTRIES = 400
"""Decisions that are told, the last ones."""

_PLAIN = (
    "run",
    "end",
    "sites",
    "moves",
    "gates",
    "attempts",
    "resumes",
    "rollbacks",
    "kernels",
    "checkpoints",
    "about",
)
_MEASURED = ("time", "lost")
_CURVES = {"boundaries": {}, "loss": {}, "rate": {}, "norms": {"lines": LINES}, "metrics": {"lines": METRICS}}
_RUNS = "SELECT key, min(time) AS begun FROM events WHERE topic = 'esper.runs' GROUP BY key ORDER BY begun, key"


def gather(ask: Ask, run_id: str) -> Gathered:
    """The rows about ``run_id``; raises RunNotFound."""
    found = {"extent": _rows(ask, "extent", run_id)}
    [extent] = found["extent"]
    if not extent["events"]:
        raise RunNotFound(_unknown(ask, run_id))
    for name in (*_PLAIN, *_MEASURED):
        found[name] = _rows(ask, name, run_id)
    found["decisions"] = _rows(ask, "decisions", run_id, entries=ENTRIES)[::-1]
    width = int(extent["steps"]) // POINTS + 1
    for name, more in _CURVES.items():
        found[name] = _rows(ask, name, run_id, width=width, **more)
    return found


def _rows(ask: Ask, name: str, run_id: str, **parameters: int) -> Rows:
    sql = (files("esper.nissa.report") / "sql" / f"{name}.sql").read_text("utf-8")
    given = {"run": run_id, **{key: str(value) for key, value in parameters.items()}}
    return _parsed(ask(sql, given, "json"))


def _parsed(answer: bytes) -> Rows:
    """ClickHouse's JSON as rows. Some of its versions write large integers as strings."""
    read = json.loads(answer)
    integers = [column["name"] for column in read["meta"] if "Int64" in column["type"]]
    rows: Rows = read["data"]
    for row in rows:
        for name in integers:
            if isinstance(row[name], str):
                row[name] = int(row[name])
    return rows


def _unknown(ask: Ask, run_id: str) -> str:
    known = [row["key"] for row in _parsed(ask(_RUNS, {}, "json"))]
    close = difflib.get_close_matches(run_id, known, n=1)
    hint = f"did you mean {close[0]}?" if close else "esper runs lists those that are"
    return f"there is no run {run_id!r} in the database; {hint}"
