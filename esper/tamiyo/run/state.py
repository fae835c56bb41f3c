"""The state of a run, as folded from its events (Tamiyo's run view). Plain data: no torch, no clock, no I/O.

Nothing is stored twice: a seed keeps its transitions, from which its stage follows; a site's stage follows from
its seeds. So a rollback is a truncation.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from esper.events.encoding.codec import canonical_json, jsonable
from esper.events.runs import (
    CheckpointCommitted,
    DecisionMade,
    Environment,
    GateDescription,
    Health,
    ModelDescription,
    SeedTransitioned,
    SiteTable,
    Trial,
)
from esper.kasmina.seed.stages import LIVE, Stage
from esper.settings import Settings, settings_from_json

Status = Literal["running", "paused", "completed", "failed", "cancelled"]
ENDED = ("completed", "failed", "cancelled")

FOLD = 4
"""The number of this fold, raised whenever a state has another ``digest_of_state`` than before for the same events."""

MEASUREMENTS = tuple(name for name in Health.__dataclass_fields__ if name != "site")


@dataclass(frozen=True, slots=True)
class SeedState:
    """One growth attempt: its transitions, oldest first (never empty), and its isolated measurements with steps."""

    transitions: tuple[SeedTransitioned, ...]
    trials: tuple[tuple[int, Trial], ...] = ()

    @property
    def name(self) -> str:
        """``SITE#N``, which no other attempt of the run has."""
        return self.transitions[0].seed

    @property
    def site(self) -> str:
        """The name of the site where it grows."""
        return self.transitions[0].site

    @property
    def blueprint(self) -> str:
        """The id of what it was compiled from, ``NAME@DIGEST``."""
        return self.transitions[0].blueprint

    @property
    def kernel(self) -> str:
        """The SHA-256 (hex) of the kernel as it was born."""
        return self.transitions[0].kernel

    @property
    def stage(self) -> Stage:
        """The stage that its last transition led to."""
        return Stage(self.transitions[-1].to_stage)

    @property
    def since(self) -> int:
        """The step at which the present stage began."""
        return self.transitions[-1].step

    @property
    def live(self) -> bool:
        """Whether it is neither fossilised nor culled."""
        return self.stage in LIVE

    def entered(self, stage: Stage) -> SeedTransitioned | None:
        """The latest transition into ``stage``."""
        return next((t for t in reversed(self.transitions) if t.to_stage == stage), None)


@dataclass(frozen=True, slots=True)
class Rejection:
    """A germination that failed at ``site``."""

    site: str
    blueprint: str
    step: int
    detail: str


@dataclass(frozen=True, slots=True)
class MetricState:
    """What was logged of one metric: its last value, its least and its greatest, with the steps after which they were
    logged (the first of equal ones); how often it was logged. NaN is never least or greatest unless nothing else is."""

    step: int
    value: float
    least_step: int
    least: float
    most_step: int
    most: float
    count: int = 1

    @classmethod
    def first(cls, step: int, value: float) -> MetricState:
        """A metric of which one value was logged, after ``step``."""
        return cls(step, value, step, value, step, value)

    def then(self, step: int, value: float) -> MetricState:
        """With one more value."""
        least, most = self.least, self.most
        lower, higher = value < least or least != least, value > most or most != most
        return MetricState(
            step,
            value,
            step if lower else self.least_step,
            value if lower else least,
            step if higher else self.most_step,
            value if higher else most,
            self.count + 1,
        )


@dataclass(slots=True)
class RunState:
    """A run after its first ``sequence`` events. Treat as immutable: ``fold`` returns a new one."""

    run_id: str
    sequence: int = 0
    writer_epoch: int = 0
    status: Status = "running"
    cause: str | None = None
    task: str | None = None
    seed: int = 0
    settings: str = "{}"
    optimizer: str = ""
    clip_norm: float | None = None
    rules: int = 1
    model: ModelDescription | None = None
    gate: GateDescription | None = None
    environment: Environment | None = None
    sites: SiteTable | None = None
    parameters_digest: str = ""
    state_digests: str = "sha256"  # the algorithm of ``digest``
    step: int = 0
    epoch: int = 0
    digest: str = ""
    loss: float | None = None
    learning_rate: float | None = None
    losses: tuple[float, ...] = ()  # of the last boundaries, for the governor
    loss_steps: tuple[int, ...] = ()  # and their steps
    measured: dict[str, Health] = field(default_factory=dict)  # by site, the last record that holds it
    born: dict[str, int] = field(default_factory=dict)  # seeds ever born, by site: a name is never used twice
    last_birth: int | None = None
    seeds: dict[str, SeedState] = field(default_factory=dict)
    rejections: tuple[Rejection, ...] = ()
    gate_uses: int = 0  # of folds; the next verdict's fold is this modulo the number of folds
    verdicts: int = 0  # asked so far, rolled back or not
    decisions: int = 0
    last_decision: DecisionMade | None = None
    pending: DecisionMade | None = None  # a germination decided, not yet carried out
    checkpoints: tuple[CheckpointCommitted, ...] = ()  # committed and not retired, oldest first
    rollbacks: tuple[int, ...] = ()  # the steps of all rollbacks
    resumes: int = 0  # by a trainer that executed steps again, or might have
    answered: frozenset[str] = frozenset()  # ids of commands
    alerts: int = 0
    final_loss: float | None = None
    test: dict[str, float] = field(default_factory=dict)
    params: str | None = None
    name: str | None = None
    tags: tuple[str, ...] = ()
    notes: str | None = None
    best: str | None = None
    metrics: dict[str, MetricState] = field(default_factory=dict)  # by name, in the order of their first values

    @property
    def attempt(self) -> int:
        """The attempt that now executes steps, from 1: each resume and rollback begins another."""
        return 1 + self.resumes + len(self.rollbacks)

    @property
    def health(self) -> dict[str, dict[str, float | None]]:
        """The last known measurements of each site that was ever sampled."""
        index = {name: i for i, name in enumerate(self.sites.names)} if self.sites else {}
        rows: dict[int, dict[int, int]] = {}  # by record: where each of its sites is
        health = {}
        for site, record in self.measured.items():
            if id(record) not in rows:
                rows[id(record)] = {number: row for row, number in enumerate(record.site)}
            row = rows[id(record)][index[site]]
            health[site] = {name: getattr(record, name)[row] for name in MEASUREMENTS}
        return health

    def plain(self) -> dict[str, Any]:
        """The state as plain JSON values."""
        raw = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "measured"}
        plain: dict[str, Any] = jsonable({**raw, "answered": sorted(self.answered), "health": self.health})
        return plain

    def digest_of_state(self) -> str:
        """SHA-256 (hex) of the state; equal in every process.

        Large parts are in it by their own digests, which are kept: with 10,000 sites a state has some megabytes, of
        which an event changes little.
        """
        parts: dict[str, Any] = {}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if name == "measured":
                parts[name] = _digest_of_measured(_Same(value))
            elif name == "seeds":
                parts[name] = [_digest_of_seed(_Same(seed)) for seed in value.values()]
            else:
                parts[name] = _digest_of_part(_Same(value)) if isinstance(value, _LARGE) else value
        return _sha256(canonical_json(parts))

    def live_seeds(self) -> tuple[SeedState, ...]:
        """The seeds that are neither fossilised nor culled, in the order of their births."""
        return tuple(seed for seed in self.seeds.values() if seed.live)

    def stages(self) -> dict[str, int]:
        """How many seeds are in each stage, in the order of a seed's life."""
        counted = Counter(seed.stage for seed in self.seeds.values())
        return {stage.value: counted[stage] for stage in Stage if counted[stage]}

    def last_loss(self) -> float | None:
        """The mean training loss since the last boundary, for a run that is over, else before it."""
        return self.loss if self.final_loss is None else self.final_loss

    def summary(self) -> dict[str, Any]:
        """The run in a few plain values; ``test_accuracy`` is None unless the test measured ``accuracy``."""
        return {
            "run_id": self.run_id,
            "status": self.status,
            "steps": self.step,
            "final_loss": self.last_loss(),
            "test_accuracy": self.test.get("accuracy"),
            "parameters_digest": self.parameters_digest,
            "events": self.sequence,
            "seeds": self.stages(),
        }


def settings_of(state: RunState) -> Settings:
    """The run's settings, as RunStarted recorded them."""
    return _settings(state.settings)


_settings = lru_cache(maxsize=32)(settings_from_json)


_LARGE = (tuple, frozenset, SiteTable, ModelDescription, GateDescription, Environment, DecisionMade)


class _Same:
    """A key that equals another of the same object, which it keeps alive: the object's own ``==`` would read all."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _digest_of(part: _Same) -> str:
    value = part.value
    return _sha256(canonical_json(sorted(value) if isinstance(value, frozenset) else value))


_digest_of_part = lru_cache(maxsize=1 << 11)(_digest_of)
_digest_of_seed = lru_cache(maxsize=1 << 14)(_digest_of)


@lru_cache(maxsize=64)
def _digest_of_measured(part: _Same) -> str:
    """Of each record that still tells the latest about some sites, and about which. The dict is never changed again:
    a fold changes a copy."""
    measured: dict[str, Health] = part.value  # type: ignore[assignment]
    records = {id(record): record for record in measured.values()}
    numbers = {key: number for number, key in enumerate(records)}
    whole = hashlib.sha256("\0".join(measured).encode())
    whole.update(struct.pack(f"<{len(measured)}I", *[numbers[id(record)] for record in measured.values()]))
    for record in records.values():
        whole.update(_digest_of_part(_Same(record)).encode())
    return whole.hexdigest()
