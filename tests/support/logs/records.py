"""Events made by ``tests.support.runs.histories`` as records."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from esper.events import Event
from esper.events.topics import RUNS
from esper.log.chain import chained, first_link
from esper.log.exclusions import order_of
from esper.log.port import Log, Record
from esper.log.records import record_of
from tests.support.runs.histories import RUN


def behind(log: Log, run_id: str, records: Sequence[Record]) -> list[Record]:
    """``records`` as the run's next ones on ``log``: chained behind its last event."""
    order = order_of(log, run_id)
    deque(order.over(log.read(RUNS, run_id)), maxlen=0)
    return chained(records, order.mark.link or first_link(run_id))[0]


def record_of_event(event: Event, run_id: str = RUN) -> Record:
    """The record of a run's event."""
    return record_of(RUNS, run_id, event.envelope, event.content)
