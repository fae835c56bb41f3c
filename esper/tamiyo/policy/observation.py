"""What a policy sees of a run: a function of the folded state alone, so that anyone can compute it again.

An observation has a version, and a module for each: ``observation_v1``. What a version holds and how it comes from
a state never change, for decisions that rest on it are on logs; another field makes another version.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Protocol

from esper.errors import UsageError
from esper.tamiyo.policy import observation_v1
from esper.tamiyo.run.state import RunState


class Option(Protocol):
    """A blueprint that fits a site."""

    @property
    def blueprint(self) -> str:
        """The blueprint's id, ``NAME@DIGEST``."""


class Candidate(Protocol):
    """A site where a seed may be born now; ``seed`` would be its name."""

    @property
    def site(self) -> str:
        """The site's name, which is its module's in the model."""

    @property
    def seed(self) -> str:
        """``SITE#N``, with the next number that no seed of the site has had."""

    @property
    def options(self) -> Sequence[Option]:
        """The blueprints that fit there; at least one."""


class Observation(Protocol):
    """What every version has: when it was made, the seed of the run's draws, and which germinations are allowed. Each
    is a frozen dataclass of plain values, tuples and dicts."""

    @property
    def run_seed(self) -> int:
        """The random seed that the run was begun with."""

    @property
    def step(self) -> int:
        """The step after which it was made."""

    @property
    def candidates(self) -> Sequence[Candidate]:
        """The sites where a seed may be born now, each with its options."""


OBSERVATIONS: dict[int, Callable[[RunState], Observation]] = {1: observation_v1.observe}


def observe(state: RunState, version: int) -> Observation:
    """What a policy that takes observations of ``version`` may know when it decides at ``state.step``.

    Raises UsageError for a version that is not known.
    """
    return observer(version)(state)


def observer(version: int) -> Callable[[RunState], Observation]:
    """What makes observations of ``version``. Raises UsageError for one that is not known."""
    if version not in OBSERVATIONS:
        there = ", ".join(map(str, OBSERVATIONS))
        raise UsageError(f"observation version {version} is not known here; known: {there}; install a newer Esper")
    return OBSERVATIONS[version]


def digest(observation: Observation) -> str:
    """SHA-256 (hex) of the fields that the observation's version has; equal in every process."""
    raw = [getattr(observation, name) for name in observation.__dataclass_fields__]  # type: ignore[attr-defined]
    return hashlib.sha256(json.dumps(raw, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
