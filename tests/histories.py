"""Runs without a network: legal histories of events, made by hand or by a small simulator of a trainer."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from esper.events import Envelope, Event, runs
from esper.events.ids import run_event_id, signal_id
from esper.kasmina import verdict
from esper.kasmina.stages import IN_THE_HOST, Stage
from esper.settings import Settings, settings_from
from esper.tamiyo.fold import apply
from esper.tamiyo.observation import digest, observe
from esper.tamiyo.policies import newest
from esper.tamiyo.policy import Decision, Policy
from esper.tamiyo.state import RunState, SeedState

RUN = "a-run"
TIME = datetime(2024, 1, 1, tzinfo=UTC)
BLUEPRINTS = ("low_rank@000000000000", "mlp@111111111111", "conv@222222222222")
FOLDS = 4
ENVIRONMENT = runs.Environment(
    python="3.11", torch="2.13", device="cpu", capability="AVX2", threads=1, deterministic=True
)
NO_SITES = runs.SiteTable(names=(), kinds=(), dims=(), reasons=(), blueprints=(), costs=())


def table(*names: str, costs: tuple[int, ...] = (100, 300, -1), unsupported: str | None = None) -> runs.SiteTable:
    """Sites of equal shape; ``unsupported`` is one of them, where no seed may grow."""
    return runs.SiteTable(
        names=names,
        kinds=("Linear",) * len(names),
        dims=((8, 8),) * len(names),
        reasons=tuple("not called once per forward" if name == unsupported else None for name in names),
        blueprints=BLUEPRINTS,
        costs=(costs,) * len(names),
    )


def health(sites: tuple[int, ...], ratios: tuple[float | None, ...]) -> runs.Health:
    """Measurements of sites, all but the gradient-to-weight ratio missing."""
    nothing = (None,) * len(sites)
    return runs.Health(
        site=sites,
        activation_mean=nothing,
        activation_variance=nothing,
        dormant_share=nothing,
        gradient_norm=nothing,
        gradient_to_weight=ratios,
        effective_rank=nothing,
        correlation=nothing,
        bottleneck=nothing,
    )


def settings(*assignments: str) -> Settings:
    return settings_from(("boundary.steps=10", "policy.warmup=0", *assignments))


class History:
    """A run's events and their fold, grown one event at a time."""

    def __init__(
        self, *assignments: str, sites: runs.SiteTable | None = None, gate: bool = True, seed: int = 0
    ) -> None:
        self.settings = settings(*assignments)
        self.events: list[Event] = []
        self.state = RunState(RUN)
        self.epoch = 1
        self.batch = 0
        description = runs.GateDescription(digest="ab", examples=400, folds=FOLDS)
        self.add(
            runs.RunStarted(
                task=None,
                seed=seed,
                settings=self.settings.model_dump_json(),
                model=runs.ModelDescription(names=("w", "b"), shapes=((100, 10), (10,)), dtypes=("float32", "float32")),
                optimizer="SGD",
                sites=table("a", "b", "c") if sites is None else sites,
                gate=description if gate else None,
                data=(),
                environment=ENVIRONMENT,
                parameters_digest="00",
            )
        )
        self.checkpoint(0)

    def add(self, content: Any) -> Event:
        """Append ``content`` with its envelope and fold it."""
        sequence = self.state.sequence + 1
        envelope = Envelope(
            id=run_event_id(RUN, self.epoch, sequence), time=TIME, writer="test", epoch=self.epoch, sequence=sequence
        )
        event = Event(envelope, content)
        self.state = apply(self.state, event)
        self.events.append(event)
        return event

    def checkpoint(self, step: int) -> None:
        self.add(runs.CheckpointCommitted(step=step, manifest=f"m{step}", sequence=1, reason="due", size=1))

    def boundary(self, step: int, loss: float = 1.0, **more: Any) -> Event:
        self.batch += 1
        content = {"sites": None, "health": None, "trials": ()} | more
        return self.add(
            runs.BoundaryReached(
                step=step,
                epoch=1,
                batch=self.batch,
                loss=loss,
                learning_rate=0.1,
                digest=f"d{step}",
                tensors=b"",
                data="x",
                first_data="y",
                **content,
            )
        )

    def decide(self, policy: Policy | None = None) -> Decision:
        """Ask the policy, by default the run's, and log what it said."""
        policy = policy or newest(self.settings.policy.name)
        seen = observe(self.state, policy.observation)
        made = policy.decide(seen)
        fields = {name: getattr(made, name) for name in made.__dataclass_fields__ if name != "score"}
        step = self.state.step
        fields |= {"policy": policy.name, "version": policy.version, "observation": digest(seen)}
        self.add(runs.DecisionMade(decision=f"{step}/1", step=step, **fields))
        return made

    def germinate(self, site: str, blueprint: str = BLUEPRINTS[0]) -> str:
        """Decide by hand, without a policy, that a seed germinates; returns its name."""
        step, name = self.state.step, f"{site}#{self.state.born.get(site, 0) + 1}"
        self.add(
            runs.DecisionMade(
                decision=f"{step}/1",
                step=step,
                policy="hand",
                version="1",
                observation="",
                action="germinate",
                site=site,
                blueprint=blueprint,
                seed=name,
                propensity=1.0,
                alternatives=(),
                reason="by hand",
            )
        )
        return name

    def born(self, step: int) -> str:
        """Carry out the pending germination at ``step``."""
        pending = self.state.pending
        assert pending is not None
        assert pending.site is not None
        assert pending.seed is not None
        assert pending.blueprint is not None
        self.add(
            runs.SeedTransitioned(
                site=pending.site,
                seed=pending.seed,
                blueprint=pending.blueprint,
                kernel=f"kernel of {pending.seed}",
                from_stage="DORMANT",
                to_stage="GERMINATED",
                step=step,
                cause="decision",
                gate=None,
                evidence=None,
            )
        )
        return pending.seed

    def reject(self, step: int) -> None:
        """The pending germination's kernel could not be compiled."""
        pending = self.state.pending
        assert pending is not None
        self.add(
            runs.DecisionRejected(
                decision=pending.decision, step=step, reason="kernel", detail="too large", site=pending.site
            )
        )

    def move(self, seed: str, to: str, step: int, cause: str = "gate", gate: str | None = None, **more: Any) -> Event:
        known = self.state.seeds[seed]
        return self.add(
            runs.SeedTransitioned(
                site=known.site,
                seed=seed,
                blueprint=known.blueprint,
                kernel=known.kernel,
                from_stage=known.stage.value,
                to_stage=to,
                step=step,
                cause=cause,
                gate=gate,
                evidence=more.get("evidence"),
            )
        )

    def grown(self, site: str, step: int, *stages: str) -> str:
        """A seed at ``site`` that goes through ``stages`` at ``step``."""
        self.germinate(site)
        name = self.born(step)
        for stage in stages:
            self.move(name, stage, step)
        return name

    def roll_back(self, step: int, to_step: int) -> None:
        """Go back, and cull the seed that blends or holds."""
        removed = tuple(n for n, s in self.state.seeds.items() if s.transitions[0].step > to_step)
        self.add(runs.RolledBack(step=step, to_step=to_step, cause="the loss is nan", removed=removed))
        for seed in self.state.live_seeds():
            if seed.stage in IN_THE_HOST:
                self.move(seed.name, "CULLED", step, cause="rollback")


def simulate(rng: random.Random, boundaries: int = 25, *assignments: str, end: bool = True) -> History:
    """A run whose losses, gains, failures, commands, pauses and rollbacks ``rng`` chooses."""
    defaults = ("training.steps=30", "blending.steps=20", "blending.holding_steps=20", "verdict.measurements=2")
    sites = table("a", "b", "c", "d", costs=(100, 250, -1), unsupported="c")
    history = History(*defaults, *assignments, sites=sites, seed=rng.randrange(1000))
    for number in range(1, boundaries + 1):
        step = 10 * number
        if rng.random() < 0.06 and number > 1:
            _accident(history, rng, step)
        if rng.random() < 0.05 and number > 1:
            _pause(history, step)
        before = {s.name: s.stage for s in history.state.live_seeds()}
        _boundary(history, rng, step)
        after = {name: seed.stage for name, seed in history.state.seeds.items()}
        moved = {after[n] for n, stage in before.items() if n in after and after[n] != stage}
        if number % 5 == 0 or moved & {Stage.BLENDING, Stage.FOSSILISED} or history.state.checkpoints == ():
            history.checkpoint(step)
    if end:
        stages = Counter(seed.stage.value for seed in history.state.seeds.values())
        history.add(
            runs.RunCompleted(
                step=10 * boundaries, final_loss=1.0, test={"accuracy": 0.5}, parameters_digest="ff", seeds=dict(stages)
            )
        )
    return history


def _accident(history: History, rng: random.Random, step: int) -> None:
    to_step = rng.choice(history.state.checkpoints[-2:]).step
    history.roll_back(step - 3, to_step)
    for checkpoint in history.state.checkpoints:
        if checkpoint.step > to_step:
            history.add(runs.CheckpointRetired(step=checkpoint.step, manifest=checkpoint.manifest))
    history.checkpoint(step - 3)


def _pause(history: History, step: int) -> None:
    history.add(runs.RunPaused(step=step - 1, reason="Ctrl-C"))
    history.epoch += 1
    history.add(runs.RunResumed(checkpoint=step - 1, inexact=False, environment=ENVIRONMENT, notes=()))


def _boundary(history: History, rng: random.Random, step: int) -> None:
    state = history.state
    trials = tuple(_trial(state, seed, rng) for seed in state.live_seeds() if seed.stage is Stage.TRAINING)
    sampled = tuple(sorted(rng.sample(range(4), 2)))
    measured = health(sampled, tuple(rng.choice((None, rng.random())) for _ in sampled))
    history.boundary(step, loss=1.0 + rng.random() / 10, health=measured, trials=trials)
    for seed in history.state.live_seeds():
        if rng.random() < 0.04:
            command: UUID = signal_id(RUN, "test", f"{step}/{seed.name}")
            history.add(runs.CommandAccepted(step=step, command=command, kind="cull", seed=seed.name, issuer="test"))
            history.move(seed.name, "CULLED", step, cause="command")
        else:
            _judge(history, seed, step, rng)
    if history.state.pending is not None:
        if rng.random() < 0.15:
            history.reject(step)
        else:
            history.born(step)
    history.decide()


def _trial(state: RunState, seed: SeedState, rng: random.Random) -> runs.Trial:
    fold = (state.gate_uses + 1 + len(seed.trials) % (FOLDS - 1)) % FOLDS
    mean = 0.05 + rng.random() / 100
    return runs.Trial(seed=seed.name, fold=fold, n=100, mean=mean, s=0.1, gradient_norm=1.0)


def _judge(history: History, seed: SeedState, step: int, rng: random.Random) -> None:
    state, rules = history.state, history.settings
    waited = step - seed.since
    if seed.stage is Stage.GERMINATED:
        good = rng.random() < 0.9
        evidence = runs.Evidence(passed=good, reason="the kernel loads", gradient_norm=1.0)
        history.move(seed.name, "TRAINING" if good else "CULLED", step, gate="birth", evidence=evidence)
    elif seed.stage is Stage.TRAINING and waited >= rules.training.steps:
        if any(other.stage in IN_THE_HOST for other in state.seeds.values()):
            return
        evidence = verdict.judge(
            rng.choice((0.1, -0.1)),
            0.1,
            100,
            state.gate_uses % FOLDS,
            [trial for _, trial in seed.trials],
            state.verdicts + 1,
            rules.verdict,
            100 if seed.blueprint == BLUEPRINTS[0] else 250,
            FOLDS,
        )
        history.move(seed.name, "BLENDING" if evidence.passed else "CULLED", step, gate="verdict", evidence=evidence)
    elif seed.stage is Stage.BLENDING and waited >= rules.blending.steps:
        history.move(seed.name, "HOLDING", step, gate="blend", evidence=runs.Evidence(passed=True, reason="alpha is 1"))
    elif seed.stage is Stage.HOLDING and waited >= rules.blending.holding_steps:
        began = seed.entered(Stage.BLENDING)
        assert began is not None
        assert began.evidence is not None
        assert began.evidence.audit_fold is not None
        evidence = verdict.audit(rng.choice((0.1, -0.1)), 0.1, 100, began.evidence.audit_fold, rules.verdict, 0.3)
        history.move(seed.name, "FOSSILISED" if evidence.passed else "CULLED", step, gate="audit", evidence=evidence)


def changed(events: list[Event], place: int, **fields: Any) -> list[Event]:
    """``events`` with other fields in the content at ``place`` (from 0)."""
    event = events[place]
    return [*events[:place], Event(event.envelope, replace(event.content, **fields)), *events[place + 1 :]]


def find(events: list[Event], kind: type, **fields: Any) -> int:
    """The place (from 0) of the first content of ``kind`` with these fields."""
    for place, event in enumerate(events):
        content = event.content
        if isinstance(content, kind) and all(getattr(content, name) == value for name, value in fields.items()):
            return place
    raise LookupError(f"no {kind.__name__} with {fields}")
