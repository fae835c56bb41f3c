"""The chain through a run's events: each holds the digest of the one before it, as that is stored. Pure.

So no event but the last can be changed, taken out or put in between without the next one telling. The digest is over
the schema's fingerprint and the body as they are stored: a reader whose own schema is another would encode other bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from esper.events.codec import with_link
from esper.log.port import RUNS, Position, Record

LINK = "link"
"""The header that repeats an event's link, in hex."""


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a reader or writer has come in a run: epoch, sequence number and position of the last event, the link
    that the next one must have (None: not known), and the first event that has a link, so that all from the one before
    it on are covered."""

    epoch: int = 0
    sequence: int = 0
    link: bytes | None = None
    chained: int | None = None
    position: Position | None = None


def first_link(run_id: str) -> bytes:
    """The link of the run's first event."""
    return hashlib.sha256(run_id.encode()).digest()


def digest(record: Record) -> bytes:
    """SHA-256 (32 bytes) of what ``record`` holds: the link of the event behind it."""
    return hashlib.sha256(_fingerprint(record.schema.fingerprint) + record.value).digest()


def chained(records: Sequence[Record], link: bytes) -> tuple[list[Record], bytes]:
    """``records``, by our schemas and without links, with the run's events chained behind ``link``; and the link of
    the event that will follow."""
    done = []
    for record in records:
        if record.topic == RUNS:
            headers = (*record.headers, (LINK, link.hex().encode()))
            record = replace(record, value=with_link(record.value, link), headers=headers)
            link = digest(record)
        done.append(record)
    return done, link


@lru_cache(maxsize=1024)
def _fingerprint(text: str) -> bytes:
    return bytes.fromhex(text)
