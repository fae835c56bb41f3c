"""What a reader makes of a log that may repeat records and hold those of fenced writers. Pure.

A run's events count in the order of their sequence numbers, not of their positions. The rule: drop an event
that is known, ignore one of an older epoch, stop where one is missing. One id with other bytes is an error.
A record that cannot be read is passed over; if an event is then missing, it was that one, and the run is quarantined.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from uuid import UUID

from esper.errors import DecodeError, Quarantined, SequenceConflict, SequenceGap
from esper.events import Event
from esper.log.port import SIGNALS, Entry
from esper.log.records import event_of

logger = logging.getLogger("esper")


def _warn(entry: Entry, error: DecodeError) -> None:
    logger.warning("the record at %s was passed over: %s", entry.position, error)


def in_order(
    entries: Iterable[Entry],
    *,
    epoch: int = 0,
    sequence: int = 0,
    unreadable: Callable[[Entry, DecodeError], None] = _warn,
) -> Iterator[tuple[Entry, Event]]:
    """The events of one run on ``esper.runs``, each once and without a gap.

    ``epoch`` and ``sequence`` are those of the last event that the caller has; what is not newer is dropped.
    ``unreadable`` is told of each record that cannot be decoded. Raises SequenceGap where an event is missing
    (Quarantined if a record just before it was unreadable, or the last one is and was written as the run's next
    event), SequenceConflict where a place holds two different events.
    """
    order = Order(epoch=epoch, sequence=sequence, unreadable=unreadable)
    for entry in entries:
        event = order.take(entry)
        if event is not None:
            yield entry, event
    order.end()


class Order:
    """The rule for one run, an entry at a time; ``in_order`` says what it raises, after which it takes no more."""

    def __init__(
        self, *, epoch: int = 0, sequence: int = 0, unreadable: Callable[[Entry, DecodeError], None] = _warn
    ) -> None:
        self.sequence = sequence  # of the last event
        self._unreadable = unreadable
        self._bad: tuple[Entry, DecodeError] | None = None  # since the last event: marked as the next, or the first
        self._base = sequence
        self._prints: list[int] = []  # of each event's bytes, from base + 1
        self._starts, self._epochs = [0], [epoch]  # from which sequence number on which epoch wrote

    def take(self, entry: Entry) -> Event | None:
        """The event in ``entry`` if it is the run's next; None if it does not count."""
        try:
            event = event_of(entry)
        except DecodeError as error:
            self._unreadable(entry, error)
            if self._bad is None or entry.record.sequence == self.sequence + 1:
                self._bad = entry, error
            return None
        epoch, place = _place(entry, event)
        if place <= self.sequence:
            self._check_known(entry, event, epoch, place)
            return None
        if epoch < self._epochs[-1]:
            return None
        if place > self.sequence + 1:
            raise self._gap(entry)
        if epoch > self._epochs[-1]:
            self._starts.append(place)
            self._epochs.append(epoch)
        self._prints.append(hash(entry.record.value))
        self.sequence, self._bad = place, None
        return event

    def end(self) -> None:
        """Nothing more is there yet; raises Quarantined if the last record is unreadable, but its writer marked it as
        the run's next event: it is from a newer version."""
        if self._bad is not None and self._bad[0].record.sequence == self.sequence + 1:
            raise _quarantined(self._bad, self.sequence)

    def _check_known(self, entry: Entry, event: Event, epoch: int, place: int) -> None:
        if epoch == self._epochs[bisect_right(self._starts, place) - 1]:
            if place > self._base and self._prints[place - self._base - 1] != hash(entry.record.value):
                raise _conflict(entry, event)
        elif epoch >= self._epochs[-1]:
            raise _conflict(entry, event)

    def _gap(self, entry: Entry) -> SequenceGap:
        if self._bad is not None:
            return _quarantined(self._bad, self.sequence)
        return SequenceGap(
            f"run {entry.record.key}: event {self.sequence + 1} is missing at {entry.position}; {_REMEDY}"
        )


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


def _quarantined(bad: tuple[Entry, DecodeError], last: int) -> Quarantined:
    entry, error = bad
    return Quarantined(entry.record.key, last + 1, str(entry.position), str(error))


def _conflict(entry: Entry, event: Event) -> SequenceConflict:
    return SequenceConflict(
        f"{entry.record.key}: {entry.position} has the place of another event, id {event.envelope.id}; {_REMEDY}"
    )
