"""One thing that a run's log says, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Finding:
    """``name`` is that of docs/tuning.md, ``what`` was found, ``change`` answers it, ``numbers`` it rests on. ``rank``
    is 0 for what keeps a run from growing at all. ``seed`` is the one that it is about, if it is about one."""

    name: str
    what: str
    change: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    rank: int = 1
    seed: str | None = None
