"""Reads runs as every reader has to: in order, and without the records that operators have excluded.

``esper.exclusions`` names records of ``esper.runs`` that are none of their run's events. It is a topic of its own, so
that the right to write it can be given apart from the right to write runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from esper.errors import DecodeError, LogError, UsageError
from esper.events import Envelope, Event
from esper.events.exclusions import RecordExcluded
from esper.events.ids import exclusion_id
from esper.events.topics import EXCLUSIONS, RUNS
from esper.log.chain import Mark, digest
from esper.log.ordering import START, Excluded, Order, warn
from esper.log.port import Entry, Log, Position, Record
from esper.log.records import event_of, record_of

logger = logging.getLogger("esper")
STRUCK = "it was taken out of its run: it is none of its events"


def excluded(log: Log, run_id: str | None = None) -> Excluded:
    """What was taken out of a run, or of any. What cannot be read there takes nothing out."""
    found = set[tuple[str, Position, bytes]]()
    for entry in log.read(EXCLUSIONS, key=run_id):
        try:
            content = event_of(entry).content
            if isinstance(content, RecordExcluded):
                found.add(meant(entry.record.key, content))
        except (DecodeError, UsageError, ValueError) as error:
            logger.warning("the exclusion at %s is passed over: %s", entry.position, error)
    return found


def meant(run_id: str, content: RecordExcluded) -> tuple[str, Position, bytes]:
    """The record that an exclusion under a run's key names; raises UsageError or ValueError if it names none."""
    return run_id, Position.parse(content.source), bytes.fromhex(content.digest)


def exclusions(log: Log) -> list[tuple[Entry, RecordExcluded]]:
    """All that was taken out of runs, the oldest first."""
    found = []
    for entry in log.read(EXCLUSIONS):
        try:
            content = event_of(entry).content
        except DecodeError:
            continue  # told of elsewhere
        if isinstance(content, RecordExcluded):
            found.append((entry, content))
    return found


def struck(entries: Iterable[Entry], out: Excluded) -> Iterator[Entry]:
    """``entries``, of which those that were taken ``out`` of their runs cannot be read: their error is STRUCK."""
    for entry in entries:
        if out and (entry.record.key, entry.position, digest(entry.record)) in out:
            yield replace(entry, error=STRUCK)
        else:
            yield entry


def left_out(log: Log) -> Excluded:
    """What was taken out of runs, and what follows on it."""
    out = excluded(log)
    found = set(out)
    for run_id in {run_id for run_id, _, _ in out}:
        order = Order(excluded=out, unreadable=lambda entry, error: None)
        for entry in log.read(RUNS, key=run_id):
            before = order.taken_out
            try:
                order.take(entry)
            except LogError:
                break  # told of elsewhere
            if order.taken_out > before:
                found.add((run_id, entry.position, digest(entry.record)))
    return found


def order_of(
    log: Log, run_id: str, *, after: Mark = START, unreadable: Callable[[Entry, DecodeError], None] = warn
) -> Order:
    """The order of a run's events on ``log``, behind ``after``."""
    out = excluded(log, run_id)

    def earlier() -> Order:
        order = Order(excluded=out, unreadable=lambda entry, error: None)
        for entry in log.read(RUNS, key=run_id):
            order.take(entry)
            if order.sequence == after.sequence:
                break
        return order

    return Order(after=after, excluded=out, unreadable=unreadable, earlier=earlier if after.sequence else None)


def run_events(
    log: Log, run_id: str, *, unreadable: Callable[[Entry, DecodeError], None] = warn
) -> Iterator[tuple[Entry, Event]]:
    """A run's events from the first one to its present end; raises as ``esper.log.ordering.in_order`` does."""
    return order_of(log, run_id, unreadable=unreadable).over(log.read(RUNS, key=run_id))


@dataclass(frozen=True, slots=True)
class Passed:
    """A record under a run's key that is none of its events, and why."""

    run_id: str
    position: Position
    why: str

    def __str__(self) -> str:
        return (
            f"run {self.run_id}: the record at {self.position} was passed over ({self.why}); if it is not its "
            f"trainer's, take it out with `esper dlq exclude {self.position} --why TEXT`"
        )


def noting(passed: list[Passed]) -> Callable[[Entry, DecodeError], None]:
    """What collects in ``passed`` the records that an order passes over."""
    return lambda entry, error: passed.append(Passed(entry.record.key, entry.position, str(error)))


def untaken(log: Log) -> Iterator[str]:
    """What readers do not take of the log's runs, a line each: records that they pass over, and where they stop."""
    orders, out = dict[str, Order](), excluded(log)
    stopped: set[str] = set()
    passed: list[Passed] = []
    for entry in log.read(RUNS):
        run_id = entry.record.key
        if run_id in stopped:
            continue
        order = orders.get(run_id)
        if order is None:
            order = orders[run_id] = Order(excluded=out, unreadable=noting(passed))
        try:
            order.take(entry)
        except LogError as error:
            stopped.add(run_id)
            yield str(error)
        yield from map(str, passed)
        passed.clear()
    for run_id in orders.keys() - stopped:
        try:
            orders[run_id].end()
        except LogError as error:
            yield str(error)


def exclusion_record(entry: Entry, why: str, *, writer: str, time: datetime) -> Record:
    """The record that takes ``entry`` out of its run; for ``Log.signal``."""
    source, own = str(entry.position), digest(entry.record).hex()
    content = RecordExcluded(source=source, digest=own, why=why)
    envelope = Envelope(id=exclusion_id(source, own), time=time, writer=writer)
    return record_of(EXCLUSIONS, entry.record.key, envelope, content)
