"""Records on ``esper.deadletter``: what could not be read, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass

from esper.events.runs import Measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A header of the record that could not be read."""

    name: str
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """The record at ``source`` (TOPIC/PARTITION:OFFSET) could not be read.

    ``schema`` is the full name of its writer's schema where that is known, else ``schema_id`` is the registry's
    number in its frame, if it has one. ``value`` is the record's, cut off where a dead letter would be too large;
    ``size`` is its whole length.
    """

    source: str
    error: str
    schema: str | None
    schema_id: int | None
    key: str
    value: bytes
    size: int
    headers: tuple[Header, ...]
    measured: Measured | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterResolved:
    """The dead letter at ``letter`` is done with: the record at ``source`` can be read now, and ``outcome`` says how.

    Its key is the record's, not its position: for a record of ``esper.runs`` that is the run, so that whoever
    keeps the run's view hears of it where the run's events are and folds the run again.
    """

    source: str
    letter: str
    outcome: str
    measured: Measured | None = None
