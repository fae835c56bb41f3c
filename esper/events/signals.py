"""Events on ``esper.signals``: what others ask of a run. They change nothing until its trainer answers."""

from __future__ import annotations

from dataclasses import dataclass

from esper.events.runs import Measured


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandIssued:
    """A person or program asks a run to pause, stop or cull a seed. One nonce of one issuer is one command."""

    command: str
    seed: str | None
    issuer: str
    nonce: str
    reason: str
    measured: Measured | None = None
