"""What a reader makes of a log that may repeat records and hold what is damaged, forged or of others. Pure.

A run's events count in the order of their sequence numbers, and each holds the digest of the one before it
(``esper.log.chain``). What is known is dropped. What is no event of the run is passed over and told: a record that
cannot be read, and one of a later epoch that does not begin with RunStarted or RunResumed. A reader stops where an
event is missing, where the chain does not hold, and at a fork: two events in one place, or one of an older epoch behind
the beginning of a later. Only an operator can then say which branch counts: what is excluded is not there for readers,
nor is what follows on it.
"""

from __future__ import annotations

import logging
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import replace
from uuid import UUID

from esper.errors import DecodeError, Quarantined, SequenceConflict, SequenceGap
from esper.events import Event
from esper.events.runs import CommandAccepted, CommandRejected, RunResumed, RunStarted
from esper.events.topics import SIGNALS
from esper.log.chain import Mark, digest, first_link
from esper.log.port import Entry, Position
from esper.log.records import event_of

logger = logging.getLogger("esper")

LEAP = 1 << 32
"""How much later an epoch may be than the one before it: no run has more writers that wrote nothing in between."""
START = Mark()
_BEGIN = frozenset((RunStarted, RunResumed, CommandAccepted, CommandRejected))
"""What a writer begins with: a trainer with one of the first two, who answers what is asked of a run that is over with
one of the others."""
Excluded = Set[tuple[str, Position, bytes]]
"""Records that do not count: each one's key, position and digest."""
_NOTHING: Excluded = frozenset()


def warn(entry: Entry, error: DecodeError) -> None:
    """Tell the program's log of a record that is passed over."""
    logger.warning("the record at %s was passed over: %s", entry.position, error)


def in_order(
    entries: Iterable[Entry],
    *,
    after: Mark = START,
    excluded: Excluded = _NOTHING,
    unreadable: Callable[[Entry, DecodeError], None] = warn,
) -> Iterator[tuple[Entry, Event]]:
    """The events of one run on ``esper.runs``, each once and without a gap.

    ``after`` is how far the caller has come; ``excluded`` are records that do not count.
    ``unreadable`` is told of each record that is passed over. Raises SequenceGap where an event is missing (Quarantined
    if a record just before it was unreadable, or the last one is and was written as the run's next event),
    SequenceConflict at a fork and where the chain does not hold.
    """
    return Order(after=after, excluded=excluded, unreadable=unreadable).over(entries)


class Order:
    """The rule for one run, an entry at a time; ``in_order`` says what it raises, after which it takes no more.

    ``left`` is the highest place that excluded records, and those that follow on them, say they have in the run;
    ``claimed`` is that of those which were passed over, too. ``earlier``, where it begins behind ``after``, gives an
    order that has come to there: it is asked only where a record may repeat an event from before.
    """

    def __init__(
        self,
        *,
        after: Mark = START,
        excluded: Excluded = _NOTHING,
        unreadable: Callable[[Entry, DecodeError], None] = warn,
        earlier: Callable[[], Order] | None = None,
    ) -> None:
        self.sequence, self.left, self.claimed = after.sequence, 0, 0
        self.taken_out = 0
        """How many records were excluded, or followed on such."""
        self._link, self._chained = after.link, after.chained
        self._unreadable, self._excluded, self._earlier = unreadable, excluded, earlier
        self._out: set[bytes] = set()  # digests of what is excluded
        self._cut = False  # whether the next event was excluded: then what lies behind it has nothing to follow on
        self._bad: tuple[Entry, DecodeError] | None = None  # since the last event: marked as the next, or the first
        self._base, self._begun_link = after.sequence, after.link
        self._offsets, self._prints = array("q"), array("q")  # of each event from base + 1 on: of its digest
        self._begun, self._last = after.position, after.position  # where the events before these end; the last one
        self._starts, self._epochs = [0], [after.epoch]  # from which sequence number on which epoch wrote

    @property
    def mark(self) -> Mark:
        """How far it has come."""
        return Mark(self._epochs[-1], self.sequence, self._link, self._chained, self.at(self.sequence))

    def has(self, position: Position) -> bool:
        """Whether one of the events that it has taken lies there."""
        place = bisect_left(self._offsets, position.offset)
        return place < len(self._offsets) and self._offsets[place] == position.offset

    def over(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, Event]]:
        """The events in ``entries``, up to their end."""
        for entry in entries:
            event = self.take(entry)
            if event is not None:
                yield entry, event
        self.end()

    def take(self, entry: Entry) -> Event | None:
        """The event in ``entry`` if it is the run's next; None if it does not count."""
        own, place = digest(entry.record), self.sequence + 1
        if self._excluded and (entry.record.key, entry.position, own) in self._excluded:
            if not self._is_taken(own, entry.record.sequence or 0):  # else it is a repeat, and another one counts
                self._leave(entry, own)
            return None
        try:
            event = event_of(entry)
        except DecodeError as error:
            self._pass_over(entry, error)
            return None
        envelope = event.envelope
        plain = envelope.sequence == place and envelope.epoch == self._epochs[-1] and event.link == self._link
        if not plain or not self._chained or type(event.content) is RunStarted:
            if event.link in self._out:  # it goes on from what is excluded
                self._leave(entry, own)
                return None
            if self._cut and (envelope.sequence or 0) > place:
                self._leave(entry, own)
                return None
            if not self._is_next(entry, event, own, envelope.epoch or 0, envelope.sequence or 0):
                return None
        self._offsets.append(entry.position.offset)
        self._prints.append(hash(own))
        self.sequence, self._link, self._last, self._bad, self._cut = place, own, entry.position, None, False
        return event

    def end(self) -> None:
        """Nothing more is there yet; raises Quarantined if the last record is unreadable, but its writer marked it as
        the run's next event: it is from a newer version."""
        if self._bad is not None and self._bad[0].record.sequence == self.sequence + 1:
            raise _quarantined(self._bad, self.sequence)

    def _is_next(self, entry: Entry, event: Event, own: bytes, epoch: int, place: int) -> bool:
        """Whether it may be the run's next event; raises where nobody can go on."""
        foreign = self._foreign(event, epoch, place)
        if foreign is not None:
            self.claimed = max(self.claimed, entry.record.sequence or 0)
            self._unreadable(entry, DecodeError(foreign))
            return False
        if place <= self.sequence:
            self._check_known(entry, own, epoch, place)
            return False
        if epoch < self._epochs[-1]:
            raise self._behind(entry, epoch, place)
        if place > self.sequence + 1:
            raise self._gap(entry)
        self._check_link(entry, event)
        if epoch > self._epochs[-1]:
            self._starts.append(place)
            self._epochs.append(epoch)
        return True

    def _leave(self, entry: Entry, own: bytes) -> None:
        self._out.add(own)
        self.taken_out += 1
        self._cut = self._cut or entry.record.sequence == self.sequence + 1
        self.left = max(self.left, entry.record.sequence or 0)
        self.claimed = max(self.claimed, self.left)

    def _is_taken(self, own: bytes, place: int) -> bool:
        """Whether the event of that number is this very one."""
        if self._base < place <= self.sequence:
            return self._prints[place - self._base - 1] == hash(own)
        return place == self.sequence and own == self._link

    def _pass_over(self, entry: Entry, error: DecodeError) -> None:
        self._unreadable(entry, error)
        if self._bad is None or entry.record.sequence == self.sequence + 1:
            self._bad = entry, error

    def _foreign(self, event: Event, epoch: int, place: int) -> str | None:
        """Why the event cannot be one of the run's, whatever else is there; None if it can."""
        present = self._epochs[-1]
        kind = type(event.content)
        if epoch < 1 or place < 1:
            return f"a {kind.__name__} without a place in a run is no event of one"
        if kind is RunStarted and place > 1:
            return f"RunStarted as event {place} is no event of the run, which has begun"
        if epoch > present + LEAP:
            return f"epoch {epoch} is no writer's of the run, which has come to epoch {present}"
        if epoch <= present or place > self.sequence + 1:
            return None
        if kind not in _BEGIN or (place > 1) is (kind is RunStarted):
            return f"a {kind.__name__} cannot begin epoch {epoch}: a writer begins with RunStarted or RunResumed"
        return None

    def _check_known(self, entry: Entry, own: bytes, epoch: int, place: int) -> None:
        """Raise SequenceConflict unless it is an event that was taken before."""
        if place <= self._base:
            self._learn()
        known = self._prints[place - self._base - 1] if place > self._base else None
        if known == hash(own) and epoch == self._epochs[bisect_right(self._starts, place) - 1]:
            return
        other = "before" if known is None else f"at {self.at(place)}"
        raise SequenceConflict(
            f"run {entry.record.key} is forked: event {place} is there {other} and, another, at {entry.position}; "
            f"{_OUT.format(position=f'{entry.position}, or the other one,')}",
            entry.position,
            self.at(place),
        )

    def _learn(self) -> None:
        """Come to know the events before the one that this began behind."""
        if self._earlier is None:
            return
        before, self._earlier = self._earlier(), None
        if (before.sequence, before._link) == (self._base, self._begun_link):
            self._offsets, self._prints = before._offsets + self._offsets, before._prints + self._prints
            self._starts, self._epochs = before._starts + self._starts[1:], before._epochs + self._epochs[1:]
            self._base = 0

    def _behind(self, entry: Entry, epoch: int, place: int) -> SequenceConflict:
        later, began = self._epochs[-1], self._starts[-1]
        where = f" at {self.at(began)}" if began > self._base else ""
        return SequenceConflict(
            f"run {entry.record.key} is forked: event {place} of epoch {epoch} at {entry.position} lies behind the "
            f"beginning of epoch {later}{where}; {_OUT.format(position=f'{entry.position}, or that beginning,')}",
            entry.position,
            self.at(began),
        )

    def at(self, place: int) -> Position | None:
        """Where the event of that number lies."""
        if place <= self._base or self._last is None:
            return self._begun
        return replace(self._last, offset=self._offsets[place - self._base - 1])

    def _check_link(self, entry: Entry, event: Event) -> None:
        """Raise SequenceConflict where the chain does not hold."""
        expected = first_link(entry.record.key) if self.sequence == 0 else self._link
        if event.link is None and self._chained is not None:
            raise SequenceConflict(
                f"run {entry.record.key}: event {self.sequence + 1} at {entry.position} has no link, but those before "
                f"it have one: an older Esper went on with the run, or another program; {_BACK}",
                entry.position,
            )
        if event.link is not None:
            if expected is not None and event.link != expected:
                raise SequenceConflict(
                    f"run {entry.record.key}: event {self.sequence + 1} at {entry.position} does not follow on what "
                    f"lies before it: one of the two is not what was written (`esper check` may know which); {_BACK}",
                    entry.position,
                    self.at(self.sequence),
                )
            self._chained = self._chained or self.sequence + 1

    def _gap(self, entry: Entry) -> SequenceGap:
        if self._bad is not None:
            return _quarantined(self._bad, self.sequence)
        return SequenceGap(
            f"run {entry.record.key}: event {self.sequence + 1} is missing at {entry.position}; {_REMEDY}",
            entry.position,
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
            raise SequenceConflict(
                f"{entry.record.key}: {entry.position} has the id of another signal, {event.envelope.id}; {_REMEDY}"
            )


_REMEDY = "copy the run to a new log from one that has it whole"
_OUT = "`esper dlq exclude POSITION --why TEXT` takes one out: {position} whichever is not its trainer's"
_BACK = f"{_REMEDY}, or take out the one that is not, and all that follows: `esper dlq exclude POSITION --why TEXT`"


def _quarantined(bad: tuple[Entry, DecodeError], last: int) -> Quarantined:
    entry, error = bad
    return Quarantined(entry.record.key, last + 1, str(entry.position), str(error))
