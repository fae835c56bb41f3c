"""Runs as the commands read them: their events in order, and the state that these fold to."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from esper.cli.options import Place
from esper.errors import RunNotFound, UsageError
from esper.events import Event
from esper.events.runs import RunCancelled, RunCompleted, RunFailed
from esper.events.schemas import name_of
from esper.log import open_log
from esper.log.ordering import in_order
from esper.log.port import RUNS, Entry, Log
from esper.tamiyo.fold import fold
from esper.tamiyo.state import RunState

if TYPE_CHECKING:
    from esper.log.kafka.log import KafkaLog


def existing_log(place: Place) -> Log | None:
    """The log, or None where it is a file that is not there: reading makes no files."""
    path = place.log.removeprefix("sqlite:///")
    if path != place.log and not Path(path).exists():
        return None
    return open_log(place.log)


def kafka_log(place: Place) -> KafkaLog:
    """The log, which has to be on Kafka; raises UsageError."""
    from esper.log.kafka.log import KafkaLog

    log = open_log(place.log)
    if not isinstance(log, KafkaLog):
        raise UsageError(f"{place.log} is not on Kafka; name a log with --log kafka://HOST:PORT or ESPER_LOG")
    return log


def check_answers(place: Place) -> None:
    """Raise LogError now if a log on Kafka cannot be reached or has no topics, or its registry does not answer: torch
    takes seconds to import."""
    if place.log.startswith("kafka://"):
        with closing(kafka_log(place)) as log:
            log.writable(RUNS)
            log.registry.subjects.count()


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


def log_with(place: Place, run_id: str) -> Log:
    """The log that holds ``run_id``; raises RunNotFound."""
    log = existing_log(place)
    if log is not None and next(iter(log.read(RUNS, key=run_id)), None) is not None:
        return log
    known = run_ids(log) if log is not None else []
    close = difflib.get_close_matches(run_id, known, n=1)
    hint = f"did you mean {close[0]}?" if close else "esper runs lists those that are"
    raise RunNotFound(f"there is no run {run_id!r} in {place.log}; {hint}")


def has_ended(log: Log, run_id: str) -> bool:
    """Whether the run was completed, failed or cancelled; read from its last checkpoint on."""
    ends = {name_of(content) for content in (RunCompleted, RunFailed, RunCancelled)}
    return any(entry.record.schema.name in ends for entry in log.read(RUNS, run_id, log.checkpointed(run_id)))


def history(log: Log, run_id: str) -> Iterator[tuple[Entry, Event]]:
    """The run's events in order, with the entries that hold them."""
    return in_order(log.read(RUNS, key=run_id))


def state_of(log: Log, run_id: str) -> RunState:
    """The run as it is now."""
    return fold(RunState(run_id), (event for _, event in history(log, run_id)))


def state_at(log: Log, run_id: str, *, sequence: int | None, step: int | None) -> RunState:
    """The run after event ``sequence``, or as it was when step ``step`` was done; raises UsageError beyond its end."""
    events = (event for _, event in history(log, run_id))
    if sequence is not None:
        state = fold(RunState(run_id), takewhile(lambda event: (event.envelope.sequence or 0) <= sequence, events))
        if sequence < 1 or state.sequence < sequence:
            last = state_of(log, run_id).sequence
            raise UsageError(f"run {run_id} has events 1 to {last}, but no event {sequence}")
        return state
    if step is None:
        return fold(RunState(run_id), events)
    state, reached = RunState(run_id), -1
    for event in events:
        reached = getattr(event.content, "step", 0)
        if reached > step:
            return state
        state = fold(state, (event,))
    if step > state.step:
        raise UsageError(f"run {run_id} has logged steps 0 to {state.step}, but not step {step}")
    return state
