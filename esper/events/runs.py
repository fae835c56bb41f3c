"""Events on ``esper.runs``: everything that changes a run, written by its trainer alone.

No content depends on the run's name, on a clock, on the process or on a folder; what a clock gave
is in ``measured`` (seconds, unless the name says otherwise). A seed is named ``site#n``, a decision
``step/n``, a checkpoint by its step.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

Measured = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDescription:
    """Names, shapes and dtypes of the host's parameters and buffers, in the module's order."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteTable:
    """The places where a seed may grow, as parallel arrays.

    ``dims`` is [in, out] for Linear and [in, out, kernel_h, kernel_w, stride_h, stride_w] for Conv2d;
    ``reasons`` says why a site is unsupported and is None where a seed may grow.
    ``costs[i][j]`` is the number of parameters that ``blueprints[j]`` adds at site i, -1 where it does not fit.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    dims: tuple[tuple[int, ...], ...]
    reasons: tuple[str | None, ...]
    blueprints: tuple[str, ...]
    costs: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GateDescription:
    """The held-out examples of the gate: their digest, how many, and in how many folds."""

    digest: str
    examples: int
    folds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """A file of a built-in task's data set, with the SHA-256 that was checked."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What decides whether two machines compute the same bits."""

    python: str
    torch: str
    device: str
    capability: str
    threads: int
    deterministic: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Measurements of sampled sites at one step, as parallel arrays; what was not measured is None.

    ``site`` indexes the run's SiteTable.
    """

    site: tuple[int, ...]
    activation_mean: tuple[float | None, ...]
    activation_variance: tuple[float | None, ...]
    dormant_share: tuple[float | None, ...]
    gradient_norm: tuple[float | None, ...]
    gradient_to_weight: tuple[float | None, ...]
    effective_rank: tuple[float | None, ...]
    correlation: tuple[float | None, ...]
    bottleneck: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One isolated measurement of a seed in TRAINING: mean and standard deviation, over ``n`` gate
    examples of ``fold``, of loss(alpha = 0) - loss(alpha = 1).

    ``gradient_norm`` is that of the seed's last isolated gradient; None if it was not finite. ``loss`` is the mean of
    loss(alpha = 0); None in older events.
    """

    seed: str
    fold: int
    n: int
    mean: float
    s: float
    gradient_norm: float | None
    loss: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Every number of a gate's verdict, so that anyone can compute it again; None where it does not apply.

    ``bound = mean - z * sqrt(s**2 / n + sigma**2)``; the seed passes when it exceeds ``delta + rent``
    (``delta`` alone, negative, for an audit). ``ablation`` is the mean loss without the seed minus that
    with it, logged at the audit and deciding nothing.
    """

    passed: bool
    reason: str
    fold: int | None = None
    n: int | None = None
    mean: float | None = None
    s: float | None = None
    sigma: float | None = None
    z: float | None = None
    delta: float | None = None
    rent: float | None = None
    bound: float | None = None
    ablation: float | None = None
    gradient_norm: float | None = None
    audit_fold: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """An action that was allowed, with its score and the probability with which it would be taken."""

    action: str
    site: str | None
    blueprint: str | None
    score: float
    propensity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """A run began: all that is needed to start it again. ``task`` is canonical JSON, None from Python.

    ``rules`` numbers the rules by which it decides for its whole life; ``state_digests`` names the algorithm of
    ``BoundaryReached.digest`` and ``tensors``. ``params`` are the user's own, canonical JSON of an object;
    ``best`` names the metric whose best checkpoint is kept, such as ``accuracy:max``.
    """

    task: str | None
    seed: int
    settings: str
    model: ModelDescription
    optimizer: str
    sites: SiteTable
    gate: GateDescription | None
    data: tuple[DataFile, ...]
    environment: Environment
    parameters_digest: str
    clip_norm: float | None = None
    rules: int = 1
    state_digests: str = "sha256"
    params: str | None = None
    name: str | None = None
    tags: tuple[str, ...] = ()
    notes: str | None = None
    best: str | None = None
    measured: Measured | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResumed:
    """A trainer took the run over, from the checkpoint at step ``checkpoint``; or went on, with another writer, where
    it was (``reopened``)."""

    checkpoint: int
    inexact: bool
    environment: Environment
    notes: tuple[str, ...]
    reopened: bool = False
    measured: Measured | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDescribed:
    """What people call the run from now on: all of it, whatever part was changed. It may come after the run's end."""

    name: str | None
    tags: tuple[str, ...]
    notes: str | None
    measured: Measured | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsLogged:
    """What the program measured and logged since such an event was last written, as parallel arrays.

    Value i was logged after step ``steps[i]`` as ``names[metrics[i]]``.
    """

    names: tuple[str, ...]
    metrics: tuple[int, ...]
    steps: tuple[int, ...]
    values: tuple[float, ...]
    measured: Measured | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPaused:
    """Training stopped in good order; ``resume`` goes on from here."""

    step: int
    reason: str
    measured: Measured | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCompleted:
    """The loop called ``finish``. ``seeds`` counts seeds by stage."""

    step: int
    final_loss: float
    test: dict[str, float]
    parameters_digest: str
    seeds: dict[str, int]
    measured: Measured | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFailed:
    """The run cannot go on."""

    step: int
    cause: str
    measured: Measured | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCancelled:
    """A command stopped the run for good."""

    step: int
    reason: str
    measured: Measured | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundaryReached:
    """The state on arrival at a boundary.

    ``loss`` is the mean training loss since the boundary before. ``digest`` covers parameters, buffers,
    optimiser, seeds, the user's state and the random generators; ``tensors`` holds the first four bytes
    of each tensor's digest, in the order of their names. ``data`` digests the batch before the boundary,
    ``first_data`` the epoch's first. ``sites`` is set when the table changes. ``failed`` names the living seeds whose
    own loss or gradient was not finite; None where that was not written.
    """

    step: int
    epoch: int
    batch: int
    loss: float
    learning_rate: float
    digest: str
    tensors: bytes
    data: str
    first_data: str
    sites: SiteTable | None
    health: Health | None
    trials: tuple[Trial, ...]
    failed: tuple[str, ...] | None = None
    measured: Measured | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionMade:
    """What the policy chose at a boundary, waits included. ``observation`` is the digest of what it saw.

    A decision that was proposed by a signal (then ``issuer`` is set, and the signal's id is the cause) is named
    after the boundary that it is about, ``decision.lag`` boundaries before ``step``.
    """

    decision: str
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
    issuer: str | None = None
    measured: Measured | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRejected:
    """A decision that could not be carried out (``kernel``), or the answer to a proposal that was not taken.

    Then ``issuer`` is set and the signal's id is the cause; ``reason`` is ``late``, ``stale`` (the run has outgrown
    it), ``second`` (another was taken) or ``invalid``. ``late`` without an issuer: none came in time.
    """

    decision: str
    step: int
    reason: str
    detail: str
    site: str | None
    issuer: str | None = None
    measured: Measured | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandAccepted:
    """The trainer obeyed the signal ``command``."""

    step: int
    command: UUID
    kind: str
    seed: str | None
    issuer: str
    measured: Measured | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRejected:
    """The trainer refused the signal ``command``, and why."""

    step: int
    command: UUID
    kind: str
    seed: str | None
    issuer: str
    reason: str
    measured: Measured | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedTransitioned:
    """A seed moved to another stage. Birth is from DORMANT. ``kernel`` is the kernel's SHA-256.

    ``cause`` is one of decision, gate, command, rollback; ``gate`` names the gate that was asked.
    """

    site: str
    seed: str
    blueprint: str
    kernel: str
    from_stage: str
    to_stage: str
    step: int
    cause: str
    gate: str | None
    evidence: Evidence | None
    measured: Measured | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointCommitted:
    """The checkpoint of ``step`` is on disk: ``manifest`` is its SHA-256, ``sequence`` the run's last
    event that it includes, as numbered when it was taken, ``size`` the bytes newly written for it. ``fold`` is the
    SHA-256 of the run as it was folded then, if that was kept beside it; it differs between equal runs."""

    step: int
    manifest: str
    sequence: int
    reason: str
    size: int
    fold: str | None = None
    measured: Measured | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRetired:
    """The checkpoint of ``step`` will not be used again; its files may go."""

    step: int
    manifest: str
    measured: Measured | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RolledBack:
    """Model, optimiser and seeds went back to the checkpoint of ``to_step``; ``removed`` were born since."""

    step: int
    to_step: int
    cause: str
    removed: tuple[str, ...]
    measured: Measured | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRaised:
    """The trainer noticed something (``kind``) that it did not have to act on."""

    step: int
    kind: str
    detail: str
    value: float | None
    measured: Measured | None = None
