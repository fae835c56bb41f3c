"""Dead letters: records that could not be read are named on ``esper.deadletter``, and reading goes on.

A dead letter's key is the position of its record and its id follows from that, so a record that is read again and
again is one dead letter. It is done with when a DeadLetterResolved names it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from esper.errors import DecodeError, LogError
from esper.events import Envelope, Event
from esper.events.deadletter import DeadLetter, DeadLetterResolved, Header
from esper.events.ids import dead_letter_id
from esper.events.topics import DEADLETTER
from esper.log.port import MAX_BYTES, Entry, Log, Position, Record
from esper.log.records import event_of, record_of

logger = logging.getLogger("esper")

ROOM = MAX_BYTES - (1 << 20)
"""What a dead letter keeps of its record, at most, so that it is itself no record that the log refuses."""
_FRAME = 5
_LONGEST_ERROR = 1000


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter as it lies in the log: when it was written, and how it was resolved, if it was."""

    position: Position
    time: datetime
    content: DeadLetter
    outcome: str | None = None


def dead_letter_record(entry: Entry, error: str, *, writer: str, time: datetime) -> Record:
    """The dead letter of ``entry``, which could not be read because of ``error``; for ``Log.signal``."""
    record, source = entry.record, str(entry.position)
    room = ROOM - len(record.key.encode()) - sum(len(name.encode()) + len(value) for name, value in record.headers)
    content = DeadLetter(
        source=source,
        error=error[:_LONGEST_ERROR],
        schema=record.schema.name or None,
        schema_id=_schema_id(entry),
        key=record.key,
        value=record.value[: max(room, 0)],
        size=len(record.value),
        headers=tuple(Header(name=name, value=value) for name, value in record.headers) if room > 0 else (),
    )
    return record_of(DEADLETTER, source, Envelope(id=dead_letter_id(source), time=time, writer=writer), content)


def resolved_record(
    source: Position, letter: Position | None, key: str, outcome: str, *, writer: str, time: datetime
) -> Record:
    """The record that ends the dead letter at ``letter`` of the record at ``source``; for ``Log.signal``.

    Its ``key`` is the dead record's: see DeadLetterResolved. ``letter`` is None where no dead letter is left.
    """
    place = "" if letter is None else str(letter)
    content = DeadLetterResolved(source=str(source), letter=place, outcome=outcome)
    identity, cause = dead_letter_id(str(source), place), dead_letter_id(str(source))
    return record_of(DEADLETTER, key, Envelope(id=identity, time=time, writer=writer, causes=(cause,)), content)


def sending_to(log: Log, writer: str) -> Callable[[Entry, DecodeError], None]:
    """What ``in_order`` may tell of unreadable records: it makes each a dead letter of ``log``, and warns."""

    def unreadable(entry: Entry, error: DecodeError) -> None:
        try:
            log.signal(dead_letter_record(entry, str(error), writer=writer, time=datetime.now(UTC)))
            logger.warning("the record at %s is a dead letter now: %s", entry.position, error)
        except LogError as failure:  # the dead letter is a help; the gap rule decides without it
            logger.warning("the record at %s was passed over: %s; no dead letter: %s", entry.position, error, failure)

    return unreadable


def letters(log: Log) -> list[Letter]:
    """All dead letters of ``log``, oldest first, one for each record: the newest, with how that one was resolved."""
    found: dict[str, Letter] = {}
    outcomes: dict[str, str] = {}
    for entry, event in _readable(log.read(DEADLETTER)):
        match event.content:
            case DeadLetter() as content:
                found[content.source] = Letter(entry.position, event.envelope.time, content)
            case DeadLetterResolved() as content:
                outcomes[content.letter] = content.outcome
            case _:
                pass
    told = (
        Letter(letter.position, letter.time, letter.content, outcomes.get(str(letter.position)))
        for letter in found.values()
    )
    return sorted(told, key=lambda letter: (letter.time, letter.content.source))


def _readable(entries: Iterable[Entry]) -> Iterable[tuple[Entry, Event]]:
    """What on ``esper.deadletter`` can be read; the rest cannot become a dead letter again."""
    for entry in entries:
        try:
            yield entry, event_of(entry)
        except DecodeError as error:
            logger.warning("the dead letter at %s cannot be read: %s", entry.position, error)


def _schema_id(entry: Entry) -> int | None:
    """The schema id in the frame of a value that was left in it."""
    value = entry.record.value
    if entry.error is None or len(value) < _FRAME or value[0] != 0:
        return None
    return int.from_bytes(value[1:_FRAME], "big")
