"""Records on ``esper.exclusions``: what operators took out of runs."""

from __future__ import annotations

from dataclasses import dataclass

from esper.events.runs import Measured


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordExcluded:
    """The record at ``source`` (TOPIC/PARTITION:OFFSET) is no event of its run, and nothing that follows on it is.

    ``digest`` is the SHA-256 (hex) of its schema's fingerprint and body, so that no other record that comes to lie
    there is meant; ``why`` is the operator's reason.
    """

    source: str
    digest: str
    why: str
    measured: Measured | None = None
