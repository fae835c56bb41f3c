"""Events made by ``tests.histories`` as records."""

from __future__ import annotations

from esper.events import Event
from esper.log.port import RUNS, Record
from esper.log.records import record_of
from tests.histories import RUN


def record_of_event(event: Event, run_id: str = RUN) -> Record:
    """The record of a run's event."""
    return record_of(RUNS, run_id, event.envelope, event.content)
