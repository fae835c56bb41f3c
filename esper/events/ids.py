"""Deterministic ids: whoever writes the same record again gives it the same id."""

from __future__ import annotations

import json
from hashlib import sha1
from uuid import NAMESPACE_URL, UUID, uuid5

NAMESPACE = uuid5(NAMESPACE_URL, "urn:esper")

_encoded = json.JSONEncoder(separators=(",", ":")).encode


def run_event_id(run_id: str, epoch: int, sequence: int) -> UUID:
    """The id of a run's event: UUIDv5 of topic, key, fencing epoch and sequence."""
    return _id("esper.runs", run_id, epoch, sequence)


def signal_id(run_id: str, issuer: str, nonce: str) -> UUID:
    """The id of a signal: UUIDv5 of run, issuer and nonce, so that a repeated command is one command."""
    return _id("esper.signals", run_id, issuer, nonce)


def asset_id(type_name: str, content_digest: str) -> UUID:
    """The id of an event on ``esper.assets``: UUIDv5 of its type's full name and its content's digest."""
    return _id("esper.assets", type_name, content_digest)


def _id(*parts: str | int) -> UUID:
    """``uuid5(NAMESPACE, ...)`` of ``parts`` as JSON, in half its time: every event has an id."""
    name = NAMESPACE.bytes + _encoded(parts).encode()
    return UUID(bytes=sha1(name, usedforsecurity=False).digest()[:16], version=5)
