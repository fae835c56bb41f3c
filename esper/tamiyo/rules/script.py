"""How the rules speak: a script is a generator that yields steps and is sent answers. Pure: no torch, no clock, no I/O.

A ``Put`` is an event of the run, answered with the state that has it; a ``Tell`` is for the library of blueprints and
kernels, answered with nothing; a question has the type of its answer beside it. Whoever carries a script out decides
nothing: a trainer answers from the model, ``verify`` from the log, a test from what it makes up.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, TypeVar
from uuid import UUID

from esper.events import RunContent
from esper.events.ids import LONGEST_ISSUER, signal_id
from esper.events.runs import Evidence
from esper.events.signals import DecisionProposed
from esper.tamiyo.policy.remote import Objection
from esper.tamiyo.run.state import RunState, SeedState

T = TypeVar("T")
FORGED = "its id is not that of its issuer and nonce in this run"
"""How what is said of a forged signal begins, so that a log tells one."""


def forged(signal: UUID, run_id: str, issuer: str, nonce: str) -> str | None:
    """Why a signal with this id is none to that run, if it is none."""
    if max(len(issuer), len(nonce)) > LONGEST_ISSUER:
        return f"{FORGED}: these have {LONGEST_ISSUER} characters at most"
    right = signal_id(run_id, issuer, nonce)
    return None if signal == right else f"{FORGED}, {right}"


@dataclass(frozen=True, slots=True)
class Put:
    """The next event of the run, by the rule that calls for it. Answered with the RunState that has it."""

    content: RunContent
    rule: str
    causes: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class KernelWanted:
    """A kernel of ``blueprint`` is wanted at ``site`` for a seed that may be born at the next boundary, with initial
    values drawn from ``random``."""

    site: str
    blueprint: str
    random: int


@dataclass(frozen=True, slots=True)
class KernelJudged:
    """The gate ``gate`` judged the kernel of ``seed``."""

    seed: SeedState
    gate: str
    evidence: Evidence


Tell: TypeAlias = KernelWanted | KernelJudged


class Gains(NamedTuple):
    """loss(alpha = 0) - loss(alpha = 1) over the examples of a fold, in isolation: mean and standard deviation, NaN or
    None where they are not finite; the norm of the seed's last isolated gradient; the mean loss without the seed."""

    mean: float | None
    s: float | None
    gradient_norm: float | None = None
    loss: float | None = None


class Change(NamedTuple):
    """loss(when blending began) - loss(now) over the examples of a fold: mean and standard deviation; and the mean loss
    without the seed minus that with it."""

    mean: float | None
    s: float | None
    ablation: float | None


class Compiled(NamedTuple):
    """The SHA-256 (hex) of a kernel that may be born."""

    kernel: str


class NotCompiled(NamedTuple):
    """Why there is no kernel."""

    reason: str


class Command(NamedTuple):
    """A signal that asks something of the run. ``forged`` says why it is no command to this run, if it is none."""

    id: UUID
    kind: str
    seed: str | None
    issuer: str
    forged: str | None = None


class Offer(NamedTuple):
    """A proposal about the boundary at step ``about``. A log tells of one that was not taken what ``refused`` says, and
    not its ``content``. ``site`` is one of the run's, or None; ``forged`` says why this is no proposal to this run;
    what speaks against one by a policy that is not ``known`` here cannot be said."""

    id: UUID
    about: int
    issuer: str
    site: str | None
    content: DecisionProposed | None
    forged: str | None = None
    refused: Objection | None = None
    known: bool = True


@dataclass(frozen=True, slots=True)
class Trial:
    """The gains of a seed in TRAINING on a fold. Answer: Gains."""

    seed: str
    fold: int


@dataclass(frozen=True, slots=True)
class BirthGradient:
    """The norm of a seed's first isolated gradient, on a batch of a fold. Answer: float, None if not finite."""

    seed: str
    fold: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gains of a seed on the fold of its verdict, which no trial of it has used. Answer: Gains."""

    seed: str
    fold: int


@dataclass(frozen=True, slots=True)
class Quantile:
    """The normal quantile of a gate, computed as ``z``. Answer: it, or what another C library made of it."""

    z: float


@dataclass(frozen=True, slots=True)
class Audit:
    """How the losses of a fold have changed since the seed began to blend. Answer: Change, None where the losses from
    then are missing."""

    seed: str
    fold: int


@dataclass(frozen=True, slots=True)
class Compile:
    """A kernel for the seed that was decided, with initial values drawn from ``random``. Answer: Compiled or
    NotCompiled."""

    site: str
    blueprint: str
    seed: str
    random: int


@dataclass(frozen=True, slots=True)
class NextCommand:
    """The next command that has arrived. Answer: Command, None if there is no more."""


@dataclass(frozen=True, slots=True)
class Description:
    """What the run is called once a command that was accepted is obeyed. Answer: RunDescribed."""

    command: UUID


@dataclass(frozen=True, slots=True)
class PolicyNamed:
    """The policy of that name, in the version that decides now. Answer: Policy."""

    name: str


@dataclass(frozen=True, slots=True)
class NextProposal:
    """The next proposal about the boundary at step ``about``. Answer: Offer, None if none came in time."""

    about: int


@dataclass(frozen=True, slots=True)
class LeftProposal:
    """The next proposal that is not about one of the steps ``to_come``. Answer: Offer, None if there is no more."""

    to_come: frozenset[int]


Question: TypeAlias = (
    Trial
    | BirthGradient
    | Verdict
    | Quantile
    | Audit
    | Compile
    | NextCommand
    | Description
    | PolicyNamed
    | NextProposal
    | LeftProposal
)
Step: TypeAlias = Put | Tell | Question
Script: TypeAlias = Generator[Step, Any, T]


def put(content: RunContent, rule: str, *causes: UUID) -> Script[RunState]:
    """Put an event; the state that has it."""
    state: RunState = yield Put(content, rule, causes)
    return state
