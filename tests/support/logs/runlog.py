"""What a run has on the log, and the part of it that must be equal however often the run was interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from esper.events import Event
from esper.events.encoding.codec import to_json
from esper.log import open_log
from esper.log.exclusions import run_events

LOG_URL = "log-url"
"""A file in a home that names the log of its runs; without it that is the embedded one in the same folder."""
COMPARED = {
    "RunStarted",
    "BoundaryReached",
    "DecisionMade",
    "DecisionRejected",
    "SeedTransitioned",
    "RolledBack",
    "RunCompleted",
}


def log_url(home: Path) -> str:
    """The log of the runs in ``home``."""
    named = home / LOG_URL
    return named.read_text() if named.exists() else f"sqlite:///{home / 'log.db'}"


def events(home: Path, run_id: str = "run") -> list[Event]:
    """A run's events in order; raises if any is missing, or twice with different content."""
    log = open_log(log_url(home))
    try:
        return [event for _, event in run_events(log, run_id)]
    finally:
        log.close()


def history(home: Path, run_id: str) -> list[tuple[str, Any]]:
    """What must be equal however often a run was killed: (type, content without what a clock gave)."""
    found = []
    for event in events(home, run_id):
        name = type(event.content).__name__
        if name in COMPARED:
            content = to_json(event)
            content.pop("measured", None)
            found.append((name, content))
    return found
