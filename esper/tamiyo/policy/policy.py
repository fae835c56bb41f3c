"""What a policy is: ``decide(observation) -> Decision``, pure, so that a decision can be replayed and explained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from esper.events.runs import Alternative
from esper.tamiyo.policy.observation import Observation
from esper.tamiyo.policy.random import uniform

Action = Literal["wait", "germinate"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What a policy chose. ``propensity`` is the probability with which it would choose this; ``alternatives`` are all
    that it might have chosen, this one included, and their propensities add up to 1."""

    action: Action
    site: str | None
    blueprint: str | None
    seed: str | None
    score: float
    propensity: float
    alternatives: tuple[Alternative, ...]
    reason: str


@runtime_checkable
class Policy(Protocol):
    """Decides at every boundary; all randomness comes from the observation's seed and step.

    ``version`` is a whole number in digits; what a version decides never changes. ``observation`` is the version of
    what it sees, which ``decide`` is given.
    """

    name: str
    version: str
    observation: int

    def decide(self, observation: Any) -> Decision:
        """What to do at the boundary that ``observation`` was made at. Pure: the same observation gives the same
        decision."""


class Choice(NamedTuple):
    """An allowed action and its score."""

    action: Action
    site: str | None
    blueprint: str | None
    seed: str | None
    score: float


def propensities(count: int, best: int, exploration: float) -> list[float]:
    """The probabilities of ``count`` actions: ``exploration`` in equal parts, and the rest for ``best``."""
    share = exploration / count
    return [1 - exploration + share if i == best else share for i in range(count)]


def drawn(probabilities: Sequence[float], best: int, at: float) -> int:
    """The action at point ``at`` of [0, 1), where ``best`` lies first and the others follow in their order."""
    order = [best, *(i for i in range(len(probabilities)) if i != best)]
    for i in order:
        at -= probabilities[i]
        if at < 0:
            return i
    return best


def exploration_draw(observation: Observation) -> float:
    """The number in [0, 1) that this boundary's choice is drawn with."""
    return uniform(observation.run_seed, observation.step, "explore")
