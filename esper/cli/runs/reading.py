"""Runs as the commands read them: ``esper.client.reading`` at the place that the command line names."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from esper.cli.options import Place
from esper.client.reading import existing, history, holding, run_ids
from esper.client.reading import state_at as state_of_events
from esper.errors import UsageError
from esper.events.encoding.schemas import name_of
from esper.events.runs import RunCancelled, RunCompleted, RunFailed
from esper.events.topics import RUNS
from esper.log import open_log
from esper.log.port import Log
from esper.tamiyo.run.state import RunState

if TYPE_CHECKING:
    from esper.log.kafka.log import KafkaLog

__all__ = ["history", "run_ids"]


def existing_log(place: Place) -> Log | None:
    """The log, or None where it is a file that is not there: reading makes no files."""
    return existing(place.log)


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


def log_with(place: Place, run_id: str) -> Log:
    """The log that holds ``run_id``; raises RunNotFound."""
    return holding(existing_log(place), place.log, run_id)


def has_ended(log: Log, run_id: str) -> bool:
    """Whether the run was completed, failed or cancelled; read from its last checkpoint on."""
    ends = {name_of(content) for content in (RunCompleted, RunFailed, RunCancelled)}
    return any(entry.record.schema.name in ends for entry in log.read(RUNS, run_id, log.checkpointed(run_id)))


def state_of(log: Log, run_id: str) -> RunState:
    """The run as it is now."""
    return state_at(log, run_id, sequence=None, step=None)


def state_at(log: Log, run_id: str, *, sequence: int | None, step: int | None) -> RunState:
    """The run after event ``sequence``, or as it was when step ``step`` was done; raises UsageError beyond its end."""
    events = (event for _, event in history(log, run_id))
    return state_of_events(run_id, events, sequence=sequence, step=step)
