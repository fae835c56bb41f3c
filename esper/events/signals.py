"""Events on ``esper.signals``: what others ask of a run. They change nothing until its trainer answers."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from esper.events.runs import Alternative, Measured


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandIssued:
    """A person or program asks a run to pause, stop or cull a seed, or to bear another name, tag or note (``value``).
    One nonce of one issuer is one command."""

    command: str
    seed: str | None
    issuer: str
    nonce: str
    reason: str
    value: str | None = None
    measured: Measured | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionProposed:
    """What a remote policy would do about the boundary at ``step``, as ``esper.tamiyo.policy.remote`` defines it.

    The fields up to ``reason`` are those of DecisionMade. The nonce is the step, so that who proposes again
    proposes the same.
    """

    step: int
    policy: str
    version: str
    observation: str
    action: str
    site: str | None
    blueprint: str | None
    seed: str | None
    propensity: float
    alternatives: tuple[Alternative, ...]
    reason: str
    issuer: str
    nonce: str
    measured: Measured | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRaised:
    """A worker saw something in a run (``kind``) that a person should look at. It lasts until AlertResolved."""

    step: int
    kind: str
    detail: str
    value: float | None
    issuer: str
    nonce: str
    measured: Measured | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertResolved:
    """The alert that the signal ``alert`` raised is over."""

    step: int
    alert: UUID
    kind: str
    detail: str
    issuer: str
    nonce: str
    measured: Measured | None = None
