"""The chain through a run's events: each holds the digest of the one before it, as that is stored. Pure.

So no event but the last can be changed, taken out or put in between without the next one telling. The digest is over
the schema's fingerprint and the body as they are stored: a reader whose own schema is another would encode other bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from hashlib import sha256
from operator import attrgetter

from esper.events.encoding.codec import maker, with_link
from esper.events.topics import RUNS
from esper.log.port import Position, Record

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
    return sha256(run_id.encode()).digest()


def digest(record: Record) -> bytes:
    """SHA-256 (32 bytes) of what ``record`` holds: the link of the event behind it."""
    return sha256(_fingerprint(record.schema.fingerprint) + record.value).digest()


def chained(records: Sequence[Record], link: bytes) -> tuple[list[Record], bytes]:
    """``records``, by our schemas and without links, with the run's events chained behind ``link``; and the link of
    the event that will follow."""
    done = []
    for record in records:
        topic, key, schema, value, headers, epoch, sequence = _fields(record)
        if topic == RUNS:
            value = with_link(value, link)
            record = _record(topic, key, schema, value, (*headers, (LINK, link.hex().encode())), epoch, sequence)
            link = sha256(_fingerprint(schema.fingerprint) + value).digest()
        done.append(record)
    return done, link


_record, _fields = maker(Record), attrgetter(*(field.name for field in fields(Record)))


@lru_cache(maxsize=1024)
def _fingerprint(text: str) -> bytes:
    return bytes.fromhex(text)
