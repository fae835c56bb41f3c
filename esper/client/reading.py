"""Runs as they are read from a log: their names, their events in order, and the state that these fold to."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import takewhile
from pathlib import Path

from esper.errors import RunNotFound, UsageError
from esper.events import Event
from esper.events.topics import RUNS
from esper.log import open_log
from esper.log.exclusions import run_events
from esper.log.port import Entry, Log
from esper.tamiyo.run.fold import fold
from esper.tamiyo.run.state import RunState


def existing(url: str) -> Log | None:
    """The log, or None where it is not there: reading makes no files."""
    return open_log(url) if is_there(url) else None


def is_there(url: str) -> bool:
    """Whether the log is none in a file, or the file is there, or anything that was written to it."""
    path = url.removeprefix("sqlite:///")
    return path == url or Path(path).exists() or Path(f"{path}-wal").exists()


def run_ids(log: Log) -> list[str]:
    """The names of all runs, the one begun first at the front."""
    begun: dict[str, datetime] = {}
    for entry in log.read(RUNS):
        if entry.record.key not in begun:
            begun[entry.record.key] = _written(entry)
    return sorted(begun, key=lambda run_id: (begun[run_id], run_id))


def _written(entry: Entry) -> datetime:
    """When the event was made, which a copy of it keeps; where nothing says so, when this log took it."""
    try:
        made = datetime.fromisoformat(dict(entry.record.headers)["ce_time"].decode())
    except (KeyError, ValueError):
        return entry.timestamp
    return entry.timestamp if made.tzinfo is None else made


def holding(log: Log | None, url: str, run_id: str) -> Log:
    """``log`` itself, if it holds ``run_id``; raises RunNotFound."""
    if log is not None and next(iter(log.read(RUNS, key=run_id)), None) is not None:
        return log
    known = run_ids(log) if log is not None else []
    close = difflib.get_close_matches(run_id, known, n=1)
    hint = f"did you mean {close[0]}?" if close else "esper runs lists those that are"
    raise RunNotFound(f"there is no run {run_id!r} in {url}; {hint}")


def history(log: Log, run_id: str) -> Iterator[tuple[Entry, Event]]:
    """The run's events in order, with the entries that hold them."""
    return run_events(log, run_id)


def state_at(run_id: str, events: Iterable[Event], *, sequence: int | None = None, step: int | None = None) -> RunState:
    """The run after event ``sequence``, or as it was when step ``step`` was done, of all its ``events``; without either
    as it is now. Raises UsageError beyond its end."""
    left = iter(events)
    state = RunState(run_id)
    if sequence is not None:
        state = fold(state, takewhile(lambda event: (event.envelope.sequence or 0) <= sequence, left))
        if sequence < 1 or state.sequence < sequence:
            last = max((event.envelope.sequence or 0 for event in left), default=state.sequence)
            raise UsageError(f"run {run_id} has events 1 to {last}, but no event {sequence}")
        return state
    if step is None:
        return fold(state, left)
    for event in left:
        if getattr(event.content, "step", 0) > step:
            return state
        state = fold(state, (event,))
    if step > state.step:
        raise UsageError(f"run {run_id} has logged steps 0 to {state.step}, but not step {step}")
    return state
