"""Deterministic ids and seeds: whoever writes the same record again gives it the same id."""

from __future__ import annotations

import json
from functools import lru_cache
from hashlib import sha1, sha256
from uuid import NAMESPACE_URL, UUID, uuid5

NAMESPACE = uuid5(NAMESPACE_URL, "urn:esper")

_VERSION_AND_VARIANT = 5 << 76 | 2 << 62
_FREE = (1 << 128) - 1 ^ (0xF << 76 | 3 << 62)
_encoded = json.JSONEncoder(separators=(",", ":")).encode


def run_event_id(run_id: str, epoch: int, sequence: int) -> UUID:
    """The id of a run's event: UUIDv5 of topic, key, fencing epoch and sequence."""
    return UUID(int=_uuid5(_run_name(run_id, epoch) + b"%d]" % sequence))


def run_event_text(run_id: str, epoch: int, sequence: int) -> bytes:
    """``run_event_id`` as ASCII text, without a UUID on the way: a run has one for each event."""
    digits = sha1(_run_name(run_id, epoch) + b"%d]" % sequence, usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-5{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:32]}".encode()


LONGEST_ISSUER = 200
"""Characters that an issuer and a nonce have at most: a run takes them over."""


def signal_id(run_id: str, issuer: str, nonce: str) -> UUID:
    """The id of a signal: UUIDv5 of run, issuer and nonce, so that a repeated command is one command."""
    return _id("esper.signals", run_id, issuer, nonce)


def asset_id(type_name: str, content_digest: str) -> UUID:
    """The id of an event on ``esper.assets``: UUIDv5 of its type's full name and its content's digest."""
    return _id("esper.assets", type_name, content_digest)


def telemetry_id(run_id: str, epoch: int, number: int) -> UUID:
    """The id of a batch of measurements: UUIDv5 of topic, run, fencing epoch and the batch's number."""
    return _id("esper.telemetry", run_id, epoch, number)


def dead_letter_id(source: str, *resolves: str) -> UUID:
    """The id of a record on ``esper.deadletter``: UUIDv5 of the position that it is about, and of that of the
    dead letter which it resolves."""
    return _id("esper.deadletter", source, *resolves)


def exclusion_id(source: str, digest: str) -> UUID:
    """The id of a record on ``esper.exclusions``: UUIDv5 of the position and the digest of what it takes out."""
    return _id("esper.exclusions", source, digest)


def kernel_seed(run_seed: int, name: str) -> int:
    """The seed of a kernel's initial weights: 63 bits of SHA-256 over the run's seed and the seed's name."""
    return int.from_bytes(sha256(f"{run_seed}/{name}".encode()).digest()[:8], "big") >> 1


def _id(*parts: str | int) -> UUID:
    """``uuid5(NAMESPACE, ...)`` of ``parts`` as JSON."""
    return UUID(int=_uuid5(NAMESPACE.bytes + _encoded(parts).encode()))


@lru_cache(maxsize=256)
def _run_name(run_id: str, epoch: int) -> bytes:
    """What the names of a run's events begin with."""
    return NAMESPACE.bytes + _encoded(("esper.runs", run_id, epoch))[:-1].encode() + b","


def _uuid5(name: bytes) -> int:
    """The number of the UUIDv5 of ``name``, which begins with the namespace."""
    number = int.from_bytes(sha1(name, usedforsecurity=False).digest()[:16], "big")
    return number & _FREE | _VERSION_AND_VARIANT
