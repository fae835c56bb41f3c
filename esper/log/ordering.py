"""What a reader makes of a log that may repeat records and hold those of fenced writers. Pure.

A run's events count in the order of their sequence numbers, not of their positions. The rule: drop an event
that is known, ignore one of an older epoch, stop where one is missing. One id with other bytes is an error.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from uuid import UUID

from esper.errors import SequenceConflict, SequenceGap
from esper.events import Event
from esper.log.port import SIGNALS, Entry
from esper.log.records import event_of


def in_order(entries: Iterable[Entry], *, epoch: int = 0, sequence: int = 0) -> Iterator[tuple[Entry, Event]]:
    """The events of one run on ``esper.runs``, each once and without a gap.

    ``epoch`` and ``sequence`` are those of the last event that the caller has; what is not newer is dropped.
    Raises SequenceGap where an event is missing, SequenceConflict where a place holds two different events,
    DecodeError where a record cannot be read.
    """
    base = last = sequence
    prints: list[int] = []  # of each event's bytes, from base + 1
    starts, epochs = [0], [epoch]  # from which sequence number on which epoch wrote
    for entry in entries:
        event = event_of(entry)
        its_epoch, place = _place(entry, event)
        if place <= last:
            if its_epoch == epochs[bisect_right(starts, place) - 1]:
                if place > base and prints[place - base - 1] != hash(entry.record.value):
                    raise _conflict(entry, event)
            elif its_epoch >= epochs[-1]:
                raise _conflict(entry, event)
        elif its_epoch >= epochs[-1]:
            if place > last + 1:
                raise SequenceGap(f"run {entry.record.key}: event {last + 1} is missing at {entry.position}; {_REMEDY}")
            if its_epoch > epochs[-1]:
                starts.append(place)
                epochs.append(its_epoch)
            prints.append(hash(entry.record.value))
            last = place
            yield entry, event


def once(entries: Iterable[Entry]) -> Iterator[tuple[Entry, Event]]:
    """The events of ``esper.signals`` or ``esper.assets``, each id once.

    Raises SequenceConflict if a signal's id comes again with other bytes (an asset's may: its id is that of
    its content, whoever wrote it whenever), DecodeError where a record cannot be read.
    """
    known: dict[UUID, int] = {}
    for entry in entries:
        event = event_of(entry)
        its_print = hash(entry.record.value)
        if event.envelope.id not in known:
            known[event.envelope.id] = its_print
            yield entry, event
        elif entry.record.topic == SIGNALS and known[event.envelope.id] != its_print:
            raise _conflict(entry, event)


_REMEDY = "copy the run again from a log that has it whole"


def _place(entry: Entry, event: Event) -> tuple[int, int]:
    epoch, sequence = event.envelope.epoch, event.envelope.sequence
    if epoch is None or sequence is None:
        raise SequenceGap(f"run {entry.record.key}: {entry.position} has no epoch and sequence; {_REMEDY}")
    return epoch, sequence


def _conflict(entry: Entry, event: Event) -> SequenceConflict:
    return SequenceConflict(
        f"{entry.record.key}: {entry.position} has the place of another event, id {event.envelope.id}; {_REMEDY}"
    )
