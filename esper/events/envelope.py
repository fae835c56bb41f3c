"""What every record says besides its content (its *envelope*: id, time, writer, causes), and the event that joins the
two."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from esper.events import Content


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """Who wrote a record, when, and what caused it.

    ``epoch`` and ``sequence`` are set on ``esper.runs`` only: the writer's fencing epoch, and the
    gapless place of the event in its run, from 1.
    """

    id: UUID
    time: datetime
    writer: str
    epoch: int | None = None
    sequence: int | None = None
    causes: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """One record: its envelope and its content.

    ``link``, of a run's event, is the digest (SHA-256, 32 bytes) of the event before it as that is stored, which chains
    a run's events together; None for other events and for those of versions that did not chain them.
    """

    envelope: Envelope
    content: Content
    link: bytes | None = None
