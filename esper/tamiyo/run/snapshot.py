"""A run's folded state as bytes, kept with a checkpoint so that a resume need not fold the run from its first event.

It is a cache of the fold: only the version that made it may use it, and whoever reads it checks that the run came to
the same event. Like a checkpoint's tensors it is trusted as far as the artifacts are.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter

from esper.errors import CorruptArtifact
from esper.events import runs
from esper.kasmina.seed import stages
from esper.tamiyo.run import fold, state
from esper.tamiyo.run.state import RunState


@dataclass(frozen=True, slots=True)
class Folded:
    """A run after its first ``state.sequence`` events; ``link`` is the link (hex) that the event behind them has, and
    ``position`` where the last of them lies. They tell whether the log has that one there, and so every one before it.
    """

    state: RunState
    link: str
    position: str


@dataclass(frozen=True, slots=True)
class _Stored:
    """What the bytes hold. A record of measurements that many sites share is there once: ``measured`` has its place
    among ``records`` for each site, and the state's own is empty."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(ser_json_inf_nan="constants", extra="forbid")

    version: str
    link: str
    position: str
    state: RunState
    records: tuple[runs.Health, ...]
    measured: dict[str, int]


@cache
def version() -> str:
    """What tells this fold from that of any other version of Esper: the SHA-256 of its code."""
    sources = (Path(str(module.__file__)).read_bytes() for module in (fold, state, runs, stages))
    return hashlib.sha256(b"\0".join((Path(__file__).read_bytes(), *sources))).hexdigest()


def to_bytes(folded: Folded) -> bytes:
    """``folded`` as JSON, with NaN and Infinity as JavaScript has them."""
    measured = folded.state.measured
    records = {id(record): record for record in measured.values()}
    places = {key: place for place, key in enumerate(records)}
    stored = _Stored(
        version=version(),
        link=folded.link,
        position=folded.position,
        state=replace(folded.state, measured={}),
        records=tuple(records.values()),
        measured={site: places[id(record)] for site, record in measured.items()},
    )
    return _adapter().dump_json(stored)


def from_bytes(data: bytes) -> Folded:
    """What ``to_bytes`` was given; raises CorruptArtifact for what this version did not make."""
    try:
        stored = _adapter().validate_json(data)
        if stored.version != version():
            raise CorruptArtifact("the folded run was kept by another version of Esper; fold the run again")
        measured = {site: stored.records[place] for site, place in stored.measured.items()}
    except (ValueError, IndexError) as error:
        raise CorruptArtifact(f"the folded run cannot be read ({error!s:.200}); fold the run again") from error
    return Folded(replace(stored.state, measured=measured), stored.link, stored.position)


@cache
def _adapter() -> TypeAdapter[_Stored]:
    return TypeAdapter(_Stored)
