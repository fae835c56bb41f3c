"""The assembly: what one run of this process is made of, and where its parts are put together."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from esper.artifacts import open_store
from esper.artifacts.port import ArtifactStore
from esper.errors import ModelMismatch, RunExists, Unsupported, UsageError
from esper.events import Event
from esper.events.topics import ASSETS
from esper.kasmina.gate import GateData
from esper.kasmina.seed.seed import holds_seeds
from esper.log import open_log
from esper.log.port import Log, Writer
from esper.settings import Settings, Telemetry, log_url
from esper.tamiyo.policy.remote import questions
from esper.tamiyo.run.state import RunState
from esper.tolaria.answers import Answers
from esper.tolaria.checkpoint.kernels import kernel_of
from esper.tolaria.checkpoint.retention import Retention
from esper.tolaria.checkpoint.writer import CheckpointWriter
from esper.tolaria.history import begun
from esper.tolaria.journal.inbox import Inbox
from esper.tolaria.journal.journal import Journal
from esper.tolaria.journal.proposals import Proposals, answered_by
from esper.tolaria.journal.reopening import Writers
from esper.tolaria.journal.replay import Replay
from esper.tolaria.model.environment import adopt, environment
from esper.tolaria.model.host import check_like
from esper.tolaria.model.seeds import Seeds
from esper.tolaria.model.sites import Sites, blueprints_of, costs_of, sites_of
from esper.tolaria.model.subject import Subject
from esper.tolaria.telemetry.meter import Meter
from esper.tolaria.telemetry.metrics import Pending
from esper.tolaria.telemetry.recorder import Recorder
from esper.tolaria.trainer import Trainer
from esper.urza.library import built_in


@dataclass(frozen=True, slots=True)
class Assembly:
    """Where a run's parts are put together; what has to be closed one day is in ``opened``."""

    run_id: str
    subject: Subject
    wanted: Sites
    log: Log
    store: ArtifactStore
    opened: ExitStack

    def check_new(self) -> None:
        """Refuse a name that a run has already, and a model that has grown."""
        if begun(self.log, self.run_id):
            raise RunExists(
                f"run {self.run_id} exists already; go on with `esper resume {self.run_id}`, or "
                f"esper.resume({self.run_id!r}, ...) from Python, or choose another run_id"
            )
        if holds_seeds(self.subject.model):
            raise Unsupported(
                "the model holds seeds of another run, whose names this one would use again; build it anew"
            )

    def check(self, state: RunState, inexact: bool) -> tuple[str, ...]:
        """Refuse a model, optimiser or machine that is not the run's; returns the differences that were let pass."""
        assert state.model is not None
        assert state.environment is not None
        assert state.sites is not None
        check_like(self.subject.model, state.model)
        if self.subject.clip_norm != state.clip_norm:
            raise UsageError(f"clip_norm is {self.subject.clip_norm}, the run's is {state.clip_norm}; pass the same")
        if type(self.subject.optimizer).__name__ != state.optimizer:
            raise ModelMismatch(
                f"the optimiser is {type(self.subject.optimizer).__name__}, the run's is {state.optimizer}"
            )
        names = tuple(site.name for site in sites_of(self.subject, self.wanted, state))
        if names != state.sites.names:
            raise UsageError(f"{_difference(names, state.sites.names)}; pass the same model and sites as to start")
        return adopt(state.environment, self.subject.model, inexact)

    def opened_writer(self) -> tuple[Writers, Writer]:
        """The run's writers and the first of them: a trainer that still runs is fenced."""
        writers = Writers(self.log, self.run_id, environment(self.subject.model))
        return writers, self.opened.enter_context(closing(writers.open()))

    def checkpoint_writer(self) -> CheckpointWriter:
        """The run's checkpoints, where this process may write from now on."""
        self.opened.enter_context(self.store.writing(f"runs/{self.run_id}"))
        return self.opened.enter_context(closing(CheckpointWriter(self.store, self.run_id)))

    def unregistered(self) -> list[Any]:
        """Registrations of built-in blueprints that the log does not hold yet."""
        return [each for key, each in built_in().items() if next(iter(self.log.read(ASSETS, key=key)), None) is None]

    def trainer(
        self,
        journal: Journal,
        gate: GateData | None,
        settings: Settings,
        replay: Replay,
        checkpoint_writer: CheckpointWriter,
        attempt: int,
        events: Sequence[Event] = (),
    ) -> Trainer:
        """What trains a run that has had ``events``, from its first one on; its steps are of the ``attempt``-th."""
        sites = sites_of(self.subject, self.wanted, journal.state)
        blueprints = blueprints_of(self.log, journal.state)
        costs = partial(costs_of, blueprints)
        seeds = Seeds(self.subject, sites, gate, partial(kernel_of, self.log, self.store, blueprints), settings)
        inbox = self.opened.enter_context(closing(Inbox(self.log, self.run_id)))
        remote = settings.decision.where == "remote"
        names = frozenset(site.name for site in sites)
        proposals = Proposals(inbox, self.run_id, answered_by(events), names, settings.decision) if remote else None
        asked = questions(self.run_id, events, settings.decision.lag) if remote else None
        answers = Answers(self.subject, seeds, gate, self.store, blueprints, inbox, proposals)
        retention = Retention(checkpoint_writer, journal, settings.checkpoint.keep)
        meter = self._meter(seeds, attempt, journal.epoch, settings.telemetry)
        watching = (meter, settings, replay, costs, asked, Pending(events, journal.state.metrics))
        trainer = Trainer(self.subject, seeds, answers, journal, inbox, retention, *watching)
        return self.opened.enter_context(closing(trainer))

    def _meter(self, seeds: Seeds, attempt: int, epoch: int, settings: Telemetry) -> Meter | None:
        """What measures the steps that are executed from now on; None if nothing shall."""
        if settings.every == 0:
            return None
        return Meter(self.subject, seeds, Recorder(self.log, self.run_id, attempt, epoch, settings), settings)


def _difference(names: Sequence[str], runs: Sequence[str]) -> str:
    """In words, for two lists of sites that are not the same."""
    for name in runs:
        if name not in names:
            return f"the run has a site {name!r}, which the model and sites= do not give"
    for name in names:
        if name not in runs:
            return f"the model and sites= give a site {name!r}, which the run has not"
    return "the model has the run's sites in another order"


def assembly_for(
    opened: ExitStack, run_id: str, subject: Subject, sites: Sites, home: Path, url: str | None
) -> Assembly:
    """Raises Unsupported and UsageError for what no run can be made of."""
    subject.check()
    log = opened.enter_context(closing(open_log(url or log_url(home.absolute()))))
    store = open_store(f"file:///{(home / 'artifacts').absolute()}")
    return Assembly(run_id, subject, sites, log, store, opened)
