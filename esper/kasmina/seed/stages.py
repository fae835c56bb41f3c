"""The stages of a seed's life, and a table that says which may follow on which."""

from __future__ import annotations

from enum import StrEnum


class Stage(StrEnum):
    """Where a seed is in its life; DORMANT is the site's, before birth."""

    DORMANT = "DORMANT"
    GERMINATED = "GERMINATED"
    TRAINING = "TRAINING"
    BLENDING = "BLENDING"
    HOLDING = "HOLDING"
    FOSSILISED = "FOSSILISED"
    CULLED = "CULLED"


SEED_MOVES: dict[Stage, frozenset[Stage]] = {
    Stage.DORMANT: frozenset({Stage.GERMINATED}),
    Stage.GERMINATED: frozenset({Stage.TRAINING, Stage.CULLED}),
    Stage.TRAINING: frozenset({Stage.BLENDING, Stage.CULLED}),
    Stage.BLENDING: frozenset({Stage.HOLDING, Stage.CULLED}),
    Stage.HOLDING: frozenset({Stage.FOSSILISED, Stage.BLENDING, Stage.CULLED}),
    Stage.FOSSILISED: frozenset(),
    Stage.CULLED: frozenset(),
}

LIVE = frozenset({Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING, Stage.HOLDING})
IN_THE_HOST = frozenset({Stage.BLENDING, Stage.HOLDING})


class IllegalMove(ValueError):
    """A move that the transition table does not have."""


def move(current: Stage, to: Stage) -> Stage:
    """``to``, if a seed may go there from ``current``; raises IllegalMove otherwise."""
    if to not in SEED_MOVES[current]:
        raise IllegalMove(f"a seed cannot go from {current} to {to}")
    return to
