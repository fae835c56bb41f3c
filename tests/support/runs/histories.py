"""Runs without a network: legal histories of events, made by hand or by a small simulator of a trainer."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

from esper.events import Envelope, Event, runs
from esper.events.ids import run_event_id, signal_id
from esper.kasmina.seed.stages import IN_THE_HOST
from esper.settings import Settings, settings_from
from esper.tamiyo.policy.observation import digest, observe
from esper.tamiyo.policy.policies import newest
from esper.tamiyo.policy.policy import Decision, Policy
from esper.tamiyo.policy.remote import OpenDecisions, proposals
from esper.tamiyo.rules import checkpoints, decider, script
from esper.tamiyo.run.fold import apply
from esper.tamiyo.run.state import ENDED, RunState

T = TypeVar("T")

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
    return settings_from(("boundary.steps=10", "policy.warmup=0", f"gate.folds={FOLDS}", *assignments))


class History:
    """A run's events and their fold, grown one event at a time."""

    def __init__(
        self, *assignments: str, sites: runs.SiteTable | None = None, gate: bool = True, seed: int = 0
    ) -> None:
        self.settings = settings(*assignments)
        self.events: list[Event] = []
        self.state = self.seen = RunState(RUN)  # as a policy elsewhere sees the newest boundary
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

    def add(self, content: Any, *causes: UUID) -> Event:
        """Append ``content`` with its envelope and fold it."""
        sequence = self.state.sequence + 1
        envelope = Envelope(
            id=run_event_id(RUN, self.epoch, sequence),
            time=TIME,
            writer="test",
            epoch=self.epoch,
            sequence=sequence,
            causes=causes,
        )
        event = Event(envelope, content)
        self.state = apply(self.state, event)
        self.events.append(event)
        if isinstance(content, runs.BoundaryReached):
            self.seen = self.state
        return event

    def resume(self, epoch: int) -> Event:
        """Go on as the writer of ``epoch``."""
        self.epoch = epoch
        newest = max(each.step for each in self.state.checkpoints)
        return self.add(runs.RunResumed(checkpoint=newest, inexact=False, environment=ENVIRONMENT, notes=()))

    def carry_out(self, rules: script.Script[T], answer: Callable[[script.Question], Any]) -> T:
        """Add what ``rules`` put, ask ``answer`` what they ask, and return what they return."""
        given: Any = None
        while True:
            try:
                step = rules.send(given)
            except StopIteration as end:
                result: T = end.value
                return result
            if isinstance(step, script.Put):
                self.add(step.content, *step.causes)
                given = self.state
            else:
                given = None if isinstance(step, script.KernelWanted | script.KernelJudged) else answer(step)

    @property
    def reached(self) -> Event:
        """The newest boundary."""
        return next(event for event in reversed(self.events) if isinstance(event.content, runs.BoundaryReached))

    def checkpoint(self, step: int) -> None:
        reason, sequence = ("epoch", self.state.sequence) if step else ("start", 0)
        self.add(runs.CheckpointCommitted(step=step, manifest=f"m{step}", sequence=sequence, reason=reason, size=1))

    def arrival(self, step: int, loss: float = 1.0, **more: Any) -> runs.BoundaryReached:
        """What a trainer says of a boundary before anything is decided."""
        self.batch += 1
        content = {"sites": None, "health": None, "trials": ()} | more
        return runs.BoundaryReached(
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

    def boundary(self, step: int, loss: float = 1.0, **more: Any) -> Event:
        return self.add(self.arrival(step, loss, **more))

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
    """A run whose losses, gains, failures, commands, proposals, pauses and rollbacks ``rng`` chooses; a command or the
    governor may end it early. Every rule of it is the trainer's."""
    return Simulation(rng, *assignments).run(boundaries, end)


class Simulation:
    """A trainer without a model: answers what the rules ask as ``rng`` draws. ``trouble`` is a factor of the odds of
    failures, alarms, culls, accidents and interruptions; ``named_afterwards``: whether commands come after the end."""

    trouble = 1.0
    named_afterwards = False

    def __init__(self, rng: random.Random, *assignments: str) -> None:
        defaults = ("training.steps=30", "blending.steps=20", "blending.holding_steps=20", "verdict.measurements=2")
        sites = table("a", "b", "c", "d", costs=(100, 250, -1), unsupported="c")
        often = ("checkpoint.steps=40", "governor.window=50")
        self.rng = rng
        self.history = History(*defaults, *often, *assignments, sites=sites, seed=rng.randrange(1000))
        self._taken: list[tuple[int, str, int]] = []  # checkpoints that are not on the log yet
        self._due = 0
        self._asked = OpenDecisions(1) if self.history.settings.decision.where == "remote" else None
        self._commands: list[script.Command] = []
        self._offers: list[script.Offer] = []
        self._told: list[script.Command] = []

    def run(self, boundaries: int, end: bool) -> History:
        history, rng = self.history, self.rng
        for number in range(1, boundaries + 1):
            step = 10 * number
            if rng.random() < self.trouble * 0.06 and number > 1:
                self._accident(step - 3)
            if rng.random() < self.trouble * 0.05 and number > 1 and history.state.status == "running":
                self._interrupt(step - 1)
            if history.state.status != "running" or self._boundary(step) == "stop":
                break
            if number % 3 == 0:
                values = {
                    "names": ("accuracy", "loss"),
                    "metrics": (0, 1, 0),
                    "values": (0.5, 1.0 / number, number / 100),
                }
                history.add(runs.MetricsLogged(**values, steps=(step - 5, step - 5, step)))
            if rng.random() < 0.2:
                self._checkpoint(step, [checkpoints.EPOCH])
            self._commit(rng.randint(0, len(self._taken)))
        else:
            self._commit()
        if end and history.state.status == "running":
            done = runs.RunCompleted(
                step=10 * boundaries, final_loss=1.0, test={"accuracy": 0.5}, parameters_digest="ff", seeds={}
            )
            self._carry_out(decider.completion(history.state, done))
        if self.named_afterwards and history.state.status in ENDED:
            self._afterwards()
        return history

    def _afterwards(self) -> None:
        """A name for a run that is over, and a command that comes too late."""
        self.history.epoch += 1
        step = self.history.state.step
        for kind in ("rename", "pause"):
            self._commands = [
                script.Command(signal_id(RUN, "test", f"{kind} at the end of {step}"), kind, None, "test")
            ]
            self._carry_out(decider.afterwards(self.history.state))

    def _carry_out(self, rules: script.Script[T]) -> T:
        return self.history.carry_out(rules, self._answer)

    def _boundary(self, step: int) -> str | None:
        history, rng = self.history, self.rng
        if any(seed.stage in IN_THE_HOST for seed in history.state.live_seeds()):
            self._commit()
        self._commands = self._sent(step)
        failed = tuple(seed.name for seed in history.state.live_seeds() if rng.random() < self.trouble * 0.02)
        sampled = tuple(sorted(rng.sample(range(4), 2)))
        measured = health(sampled, tuple(rng.choice((None, rng.random())) for _ in sampled))
        loss = 1.0 + rng.random() / 10 + (5.0 if rng.random() < self.trouble * 0.02 else 0.0)
        arrival = history.arrival(step, loss, health=measured, failed=failed)
        place = len(history.events)
        wish = self._carry_out(decider.boundary(history.state, arrival, self._asked))
        contents = [event.content for event in history.events[place:]]
        self._checkpoint(step, checkpoints.reasons(contents, step, self._due, history.settings.checkpoint.steps))
        if self._asked is not None:
            self._offers += self._proposed()
        if wish == "pause":
            self._pause(step, decider.PAUSED_BY_COMMAND)
        return wish

    def _accident(self, step: int) -> None:
        """A loss that is not finite."""
        self._commit()
        place = len(self.history.events)
        updated = self.rng.random() < 0.98 or self.history.state.digest != ""  # a boundary comes after an update
        if self._carry_out(decider.rollback(self.history.state, step, updated)) is None:
            contents = [event.content for event in self.history.events[place:]]
            every = self.history.settings.checkpoint.steps
            self._checkpoint(step, checkpoints.reasons(contents, step, self._due, every))

    def _interrupt(self, step: int) -> None:
        """Ctrl-C or a crash."""
        if self.rng.random() < 0.5:
            self._pause(step, decider.INTERRUPTED)
        else:
            self._resume()

    def _pause(self, step: int, reason: str) -> None:
        self._taken.append((step, checkpoints.PAUSE, self.history.state.sequence))
        self._commit()
        self.history.add(runs.RunPaused(step=step, reason=reason))
        self._resume()

    def _resume(self) -> None:
        """What was taken and not committed is taken again, as its steps are run again."""
        self.history.resume(self.history.epoch + 1)

    def _checkpoint(self, step: int, why: list[str]) -> None:
        if why:
            self._due = step
            self._taken.append((step, ",".join(why), self.history.state.sequence))

    def _commit(self, count: int | None = None) -> None:
        """The oldest ``count`` checkpoints are on the disk."""
        history = self.history
        done = self._taken if count is None else self._taken[:count]
        for step, why, sequence in done:
            history.add(
                runs.CheckpointCommitted(step=step, manifest=f"m{step}{why}", sequence=sequence, reason=why, size=1)
            )
        self._taken = self._taken[len(done) :]
        if done:
            for old in checkpoints.expendable(history.state, history.settings.checkpoint.keep, self._due):
                history.add(runs.CheckpointRetired(step=old.step, manifest=old.manifest))

    def _sent(self, step: int) -> list[script.Command]:
        """What has arrived: sensible commands, and others."""
        rng, state = self.rng, self.history.state
        sent = [("cull", seed.name) for seed in state.live_seeds() if rng.random() < self.trouble * 0.04]
        sent += [("cull", rng.choice((None, "z#1", *state.seeds)))] if rng.random() < 0.05 else []
        sent += [(kind, None) for kind in ("pause", "pause", "dance", "stop") if rng.random() < 0.01]
        made = []
        for number, (kind, seed) in enumerate(sent):
            forged = "its id is not that of its issuer and nonce in this run, 1" if rng.random() < 0.1 else None
            made.append(script.Command(signal_id(RUN, "test", f"{step}/{number}"), kind, seed, "test", forged))
        self._told += made
        if step % 70 == 0:
            made.append(script.Command(signal_id(RUN, "test", f"{step}/tag"), "tag", None, "test"))
        again = [rng.choice(self._told)] if self._told and rng.random() < 0.1 else []
        return [*made, *again]

    def _proposed(self) -> list[script.Offer]:
        """What a worker makes of the newest boundary: nothing, or one proposal or more, of which not all are right."""
        rng = self.rng
        (proposal,) = proposals(self.history.seen, self.history.reached)
        offers = []
        for number in range(rng.choice((0, 1, 1, 1, 1, 1, 2))):
            wrong = rng.random()
            if wrong < 0.1:
                proposal = replace(proposal, observation="00")
            elif wrong < 0.2:
                proposal = replace(proposal, step=rng.choice((-1, proposal.step + 5, 10)))
            forged = "its id is not that of its issuer and nonce in this run, 1" if rng.random() < 0.1 else None
            identity = signal_id(RUN, proposal.issuer, f"{self.history.seen.step}/{number}")
            site = proposal.site if proposal.site in ("a", "b", "c", "d") else None
            offers.append(script.Offer(identity, proposal.step, proposal.issuer, site, proposal, forged))
        return offers

    def _answer(self, question: script.Question) -> Any:
        rng = self.rng
        match question:
            case script.Trial():
                return script.Gains(0.05 + rng.random() / 100, 0.1, rng.choice((1.0, 1.0, 1.0, None)), 1.5)
            case script.BirthGradient():
                return rng.choice((1.0,) * 9 + (None, 0.0))
            case script.Verdict():
                return script.Gains(rng.choice((0.1, 0.1, -0.1, None)), 0.1)
            case script.Audit():
                return rng.choice((*(script.Change(gain, 0.1, 0.3) for gain in (0.1, 0.1, -0.1)), None))
            case script.Quantile(z):
                return z
            case script.Compile(seed=seed):
                return script.NotCompiled("too large") if rng.random() < 0.15 else script.Compiled(f"kernel of {seed}")
            case script.NextCommand():
                return self._commands.pop(0) if self._commands else None
            case script.Description():
                state = self.history.state
                return runs.RunDescribed(name=f"at {state.step}", tags=(*state.tags, "t")[-2:], notes=state.notes)
            case script.PolicyNamed(name):
                return newest(name)
            case script.NextProposal(about):
                return self._offer(lambda offer: offer.about == about and rng.random() < 0.9)
            case script.LeftProposal(to_come):
                return self._offer(lambda offer: offer.about not in to_come)
        raise TypeError(f"no answer to {question}")

    def _offer(self, wanted: Callable[[script.Offer], bool]) -> script.Offer | None:
        found = next((offer for offer in self._offers if wanted(offer)), None)
        if found is not None:
            self._offers.remove(found)
        return found


def changed(events: list[Event], place: int, **fields: Any) -> list[Event]:
    """``events`` with other fields in the content at ``place`` (from 0)."""
    event = events[place]
    return [*events[:place], Event(event.envelope, replace(event.content, **fields)), *events[place + 1 :]]


def without(events: list[Event], place: int) -> list[Event]:
    """``events`` but for the one at ``place`` (from 0), those after it numbered anew: a log that was cut and mended."""
    return [*events[:place], *later(events[place + 1 :], -1)]


def later(events: list[Event], by: int = 1) -> list[Event]:
    """``events`` as they would be numbered ``by`` places later."""
    return [replace(event, envelope=_moved(event.envelope, by)) for event in events]


def _moved(envelope: Envelope, by: int) -> Envelope:
    assert envelope.epoch is not None
    assert envelope.sequence is not None
    sequence = envelope.sequence + by
    return replace(envelope, sequence=sequence, id=run_event_id(RUN, envelope.epoch, sequence))


def find(events: list[Event], kind: type, **fields: Any) -> int:
    """The place (from 0) of the first content of ``kind`` with these fields."""
    for place, event in enumerate(events):
        content = event.content
        if isinstance(content, kind) and all(getattr(content, name) == value for name, value in fields.items()):
            return place
    raise LookupError(f"no {kind.__name__} with {fields}")
