"""``esper.start`` and ``esper.resume``: begin a run, or go on with one."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from esper.client.reading import is_there
from esper.errors import (
    CorruptArtifact,
    DataMismatch,
    ModelMismatch,
    RunExists,
    RunNotFound,
    RunUnusable,
    SequenceGap,
    UsageError,
)
from esper.events.encoding.codec import canonical_json
from esper.events.runs import (
    CheckpointCommitted,
    CheckpointRetired,
    DataFile,
    GateDescription,
    RunResumed,
    RunStarted,
)
from esper.kasmina.gate import GateData
from esper.kasmina.seed.seed import strip
from esper.kasmina.sites import site_table, without_sites
from esper.log.claims import follow_on, miscounted
from esper.log.ordering import Order
from esper.settings import Settings, check_environment, log_url, settings_with
from esper.tamiyo.policy.policies import newest
from esper.tamiyo.rules.checkpoints import START, blend_starts, damaged_note
from esper.tamiyo.rules.decider import RULES, check_rules
from esper.tamiyo.run.about import canonical_params, digested, named, noted, tagged
from esper.tamiyo.run.state import RunState, settings_of
from esper.tolaria.assembly import Assembly, assembly_for
from esper.tolaria.checkpoint.store import Checkpoints, Loaded, snapshot
from esper.tolaria.checkpoint.weights import last_weights, put_into
from esper.tolaria.checkpoint.writer import CheckpointWriter
from esper.tolaria.history import History, further, recent, whole
from esper.tolaria.journal.journal import Journal
from esper.tolaria.journal.replay import Replay
from esper.tolaria.model.digest import STATE_DIGESTS, check_algorithm, digest_tree
from esper.tolaria.model.environment import environment
from esper.tolaria.model.host import check_like, describe
from esper.tolaria.model.sites import Sites, costs_of
from esper.tolaria.model.subject import Loss, Stateful, Subject
from esper.tolaria.run import Run
from esper.tolaria.ticker import ticking
from esper.tolaria.trainer import Trainer
from esper.urza.library import built_in

logger = logging.getLogger("esper")


def start(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    *,
    gate_data: Iterable[Any] | None = None,
    state: Mapping[str, Stateful] | None = None,
    clip_norm: float | None = None,
    sites: Sites = "auto",
    seed: int = 0,
    home: str | Path = ".esper",
    log: str | None = None,
    run_id: str | None = None,
    settings: Settings | Mapping[str, Any] | None = None,
    best: str | None = None,
    params: Mapping[str, Any] | None = None,
    name: str | None = None,
    tags: Iterable[str] = (),
    notes: str | None = None,
    data: Mapping[str, str | Path] | Sequence[DataFile] = (),
    task: str | None = None,
    progress: bool = True,
) -> Run:
    """Begin a training run.

    Args:
        model: the host, on its device. It is trained in place, and grows.
        optimizer: over the host's parameters; any of torch.optim with per-parameter state.
        loss: ``loss(model, batch)`` gives one number per example, shape [batch].
        gate_data: held-out batches, the same each time; read once into memory. Without it no seed germinates.
        state: by name, what else must survive a crash: schedulers, averages, whatever has a ``state_dict``.
        clip_norm: largest norm of the host's gradient, and of each seed's apart.
        sites: "auto", or the names of the layers where seeds may grow.
        seed: of the policy's choices and of kernels' initial weights.
        home: folder of the embedded log and of the artifacts.
        log: URL of the event log; by default ``sqlite:///HOME/log.db``.
        run_id: letters, digits and ``._-``; by default made from the time.
        settings: an ``esper.Settings``, or a nested mapping such as ``{"boundary": {"steps": 50}}``.
        best: a metric of ``run.log``, as "NAME:max" or "NAME:min": the checkpoint of its best value is kept.
        params: the program's own hyper-parameters, any JSON object; they are kept and compared between runs.
        name, tags, notes: what you call the run; `esper rename`, `tag` and `note` change them.
        data: by name, the files that it is trained on; their SHA-256 is kept.
        task: what the command line needs to resume the run.
        progress: show a line of what happens where stderr is a terminal.

    Raises:
        RunExists, UsageError, Unsupported, LossShape, LogError.
    """
    about = {
        "params": canonical_params(params),
        "name": None if name is None else named(name),
        "tags": tagged(tags),
        "notes": None if notes is None else noted(notes),
        "best": best,
        "data": digested(data) if isinstance(data, Mapping) else tuple(data),
    }
    if best is not None and not re.fullmatch(r".+:(max|min)", best):
        raise UsageError(f'best={best!r} is no metric; write "NAME:max" or "NAME:min", such as "accuracy:max"')
    run_id = _checked_run_id(run_id or f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}")
    subject = Subject(model, optimizer, loss, dict(state or {}), clip_norm)
    with ExitStack() as opened:
        assembly = assembly_for(opened, run_id, subject, sites, Path(home), log)
        assembly.check_new()
        chosen = _settings(settings)
        if not -(2**63) <= seed < 2**63:
            raise UsageError(f"seed={seed} does not fit into 64 bits; choose a smaller one")
        gate = _read_gate(gate_data, chosen)
        if gate is None:
            logger.warning("run %s: no gate_data, so no seed will germinate", run_id)
        trainer = _begin(assembly, chosen, gate, seed, task, about)
        if gate is not None and (why := without_sites(trainer.seeds.sites)) is not None:
            logger.warning("run %s: no seed can grow in this model (%s); it trains on without", run_id, why)
        opened.enter_context(ticking(trainer, progress))
        return Run(run_id, trainer, trainer.journal.state, opened.pop_all())


def resume(
    run_id: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    *,
    gate_data: Iterable[Any] | None = None,
    state: Mapping[str, Stateful] | None = None,
    clip_norm: float | None = None,
    sites: Sites = "auto",
    home: str | Path = ".esper",
    log: str | None = None,
    inexact: bool = False,
    progress: bool = True,
) -> Run:
    """Take up a run where it was: give the same arguments as to ``start``. Seed and settings come from the log.

    The newest committed checkpoint whose digests verify is loaded; the steps after it are run again and compared
    with the log. A completed run is no error: the model gets its last weights and the loops are empty. A trainer that
    still runs is fenced.

    Raises:
        RunNotFound, RunUnusable, ModelMismatch, DataMismatch, EnvironmentMismatch, CorruptArtifact, LogError.
    """
    began = time.perf_counter()
    subject = Subject(model, optimizer, loss, dict(state or {}), clip_norm)
    with ExitStack() as opened:
        if not is_there(log or log_url(Path(home).absolute())):  # looking for a run makes no files
            raise RunNotFound(f"there is no run {_checked_run_id(run_id)}: {log or log_url(home)} does not exist")
        assembly = assembly_for(opened, _checked_run_id(run_id), subject, sites, Path(home), log)
        known = recent(assembly.log, assembly.store, run_id) or whole(assembly.log, run_id)
        before = known.state
        if before.sequence == 0:
            lost = Checkpoints(assembly.store, run_id).ahead(0) is not None
            why = "its files are here: restore its log" if lost else "`esper runs` lists those there are"
            raise RunNotFound(f"there is no run {run_id} in {assembly.log.url}; {why}")
        if before.status == "completed":
            assert before.model is not None
            check_like(model, before.model)
            checkpoint, seeds = last_weights(assembly.log, assembly.store, before)
            last = max(each.step for each in before.checkpoints)
            if checkpoint.step < last:
                raise CorruptArtifact(
                    f"run {run_id} is completed, but its last weights, of step {last}, are lost; put back a copy of "
                    f"its artifacts, or take those of step {checkpoint.step}, as load with "
                    f"at={checkpoint.step} does"
                )
            put_into(model, checkpoint, seeds)
            logger.warning(
                "run %s is completed already: nothing is left to train, and the model has its weights of step %d",
                run_id,
                checkpoint.step,
            )
            return Run(run_id, None, before, ExitStack())
        if before.status in ("failed", "cancelled"):
            raise RunUnusable(f"run {run_id} is {before.status} ({before.cause}); start a new one")
        _check_counted(assembly, known.order)
        _check_not_ahead(assembly, before, known.order)
        check_rules(before)
        check_algorithm(before)
        newest(settings_of(before).policy.name)  # is there, before a trainer that has it is fenced
        strip(model)  # of what a former Run put into it
        notes = assembly.check(before, inexact)
        gate = _same_gate(gate_data, before)
        with closing(
            CheckpointWriter(assembly.store, run_id)
        ) as checkpoint_writer:  # a wrong resume must not stop a trainer that is right
            subject.check_fits(_newest(checkpoint_writer, before)[0].tree)
        trainer, first = _take_up(assembly, known, gate, notes, began)
        opened.enter_context(ticking(trainer, progress))
        return Run(run_id, trainer, trainer.journal.state, opened.pop_all(), first)


def _begin(
    assembly: Assembly,
    settings: Settings,
    gate: GateData | None,
    seed: int,
    task: str | None,
    about: Mapping[str, Any],
) -> Trainer:
    """Write the run's first events and the checkpoint of step 0."""
    writers, writer = assembly.opened_writer()
    if writer.sequence:
        raise RunExists(f"run {assembly.run_id} was begun by another process just now; choose another run_id")
    journal = assembly.opened.enter_context(closing(Journal(writers, writer, RunState(assembly.run_id), settings.log)))
    checkpoint_writer = assembly.checkpoint_writer()
    trainer = assembly.trainer(journal, gate, settings, Replay((), 0), checkpoint_writer, attempt=1)
    checkpoint_writer.take(snapshot(0, 0, (START,), trainer.tree(), trainer.cursor_tree()))
    ((_, written, _),) = checkpoint_writer.finished(wait=True)
    transaction = journal.transaction()
    for blueprint in assembly.unregistered():
        transaction.add_asset(blueprint)
    transaction.add(
        RunStarted(
            task=task,
            seed=seed,
            settings=canonical_json(settings.model_dump(mode="json")),
            model=describe(assembly.subject.model),
            optimizer=type(assembly.subject.optimizer).__name__,
            clip_norm=assembly.subject.clip_norm,
            sites=site_table(trainer.seeds.sites, costs_of(built_in(), trainer.seeds.sites)),
            gate=_describe_gate(gate),
            environment=environment(assembly.subject.model),
            parameters_digest=digest_tree(assembly.subject.tensors()).digest,
            rules=RULES,
            state_digests=STATE_DIGESTS,
            **about,
        )
    )
    transaction.add(CheckpointCommitted(step=0, manifest=written.manifest, sequence=0, reason=START, size=written.size))
    journal.commit(transaction)
    return trainer


def _take_up(
    assembly: Assembly, known: History, gate: GateData | None, notes: tuple[str, ...], began: float
) -> tuple[Trainer, int]:
    """Fence a trainer that still runs, load the newest checkpoint that verifies and say so on the log. Returns the
    trainer, and the number of the first event that was checked."""
    run_id, before, settings = assembly.run_id, known.state, settings_of(known.state)
    writers, writer = assembly.opened_writer()  # read again what a fenced trainer wrote until now
    known = further(assembly.log, known)
    present = known.state
    follow_on(assembly.log, writer, known.order)
    if present.status != before.status and present.status != "running":
        raise RunUnusable(f"run {run_id} was {present.status} just now by another trainer; nothing is left to resume")
    journal = assembly.opened.enter_context(closing(Journal(writers, writer, present, settings.log, known.order.mark)))
    checkpoint_writer = assembly.checkpoint_writer()
    checkpoint, corrupt = _newest(checkpoint_writer, journal.state)
    if not known.serves(checkpoint.step):
        known = whole(assembly.log, run_id)
    events = known.events
    replay = Replay(events, checkpoint.step, exact=not notes)
    trainer = assembly.trainer(journal, gate, settings, replay, checkpoint_writer, present.attempt + 1, events)
    trainer.load(checkpoint)
    _check_loaded(trainer, checkpoint)
    damaged = tuple(damaged_note(each.step) for each in corrupt)
    for note in damaged:
        logger.warning("run %s: %s; it goes on from that of step %d", run_id, note, checkpoint.step)
    transaction = journal.transaction()
    transaction.add(
        RunResumed(
            checkpoint=checkpoint.step,
            inexact=bool(notes),
            environment=environment(assembly.subject.model),
            notes=(*notes, *damaged),
            measured={"seconds": time.perf_counter() - began},
        )
    )
    for each in corrupt:
        transaction.add(CheckpointRetired(step=each.step, manifest=each.manifest))
    journal.commit(transaction)
    trainer.retention.remove([each.manifest for each in corrupt])
    checkpoint_writer.clean()  # nobody else writes there any more: the run is this trainer's
    return trainer, known.first


def _check_counted(assembly: Assembly, order: Order) -> None:
    """Raise SequenceConflict where fewer events were written than are there, before one of them is believed. More may
    have come meanwhile: another trainer may live."""
    counted = assembly.log.counted(assembly.run_id)
    if counted is not None and counted.sequence < order.sequence:
        wrong = miscounted(assembly.run_id, counted, order, order.left)
        if wrong is not None:
            raise wrong


def _check_not_ahead(assembly: Assembly, state: RunState, order: Order) -> None:
    """Raise SequenceGap where the store is newer than the log, as after a backup of the log alone was restored: going
    on would make another history, and delete the files of the one that was. Checkpoints that include what operators
    took out are none of the run's."""
    found = Checkpoints(assembly.store, assembly.run_id).ahead(max(state.sequence, order.left))
    if found is not None:
        step, sequence = found
        raise SequenceGap(
            f"run {assembly.run_id}: the log ends at event {state.sequence}, but {assembly.store.url} holds a "
            f"checkpoint of step {step}, which was taken at event {sequence}; restore a newer copy of the log, or put "
            f"back the folder runs/{assembly.run_id} that was copied with this log"
        )


def _newest(checkpoint_writer: CheckpointWriter, state: RunState) -> tuple[Loaded, list[CheckpointCommitted]]:
    """The newest checkpoint that verifies, with those that seeds blending in it would go back to; and the damaged."""
    by_step = sorted(state.checkpoints, key=lambda each: each.step)
    damaged = [each for each in by_step if each.manifest in set(checkpoint_writer.adopt([each.manifest]))]
    for candidate in reversed(by_step):
        if candidate in damaged:
            continue
        needed = blend_starts(state, candidate.step)
        if any(each.step in needed for each in damaged):
            continue
        try:
            for each in by_step:
                if each.step in needed:
                    checkpoint_writer.read(each.manifest)
            return checkpoint_writer.read(candidate.manifest), damaged
        except CorruptArtifact as error:
            logger.warning("run %s: %s; trying the checkpoint before", state.run_id, error)
            damaged.append(candidate)
    raise CorruptArtifact(
        f"run {state.run_id} has no checkpoint whose files are whole; restore the artifacts from a backup"
    )


def _check_loaded(trainer: Trainer, checkpoint: Loaded) -> None:
    now = digest_tree(trainer.tree())
    if now.digest != checkpoint.digest.digest:
        where = now.first_difference(checkpoint.digest.tensors)
        raise ModelMismatch(
            f"the checkpoint of step {checkpoint.step} did not load exactly: {where} differs; "
            "build the same model, optimiser and state as for start"
        )


def _read_gate(gate_data: Iterable[Any] | None, settings: Settings) -> GateData | None:
    if gate_data is None:
        return None
    return GateData.read(gate_data, settings.gate.folds, settings.gate.limit_mb)


def _same_gate(gate_data: Iterable[Any] | None, state: RunState) -> GateData | None:
    gate = _read_gate(gate_data, settings_of(state))
    if _describe_gate(gate) != state.gate:
        raise DataMismatch(
            f"gate_data is not what run {state.run_id} began with; give the same examples in the same order"
        )
    return gate


def _describe_gate(gate: GateData | None) -> GateDescription | None:
    return GateDescription(digest=gate.digest, examples=gate.examples, folds=gate.folds) if gate else None


def _settings(given: Settings | Mapping[str, Any] | None) -> Settings:
    check_environment()  # what Settings() alone does not look at
    settings = given if isinstance(given, Settings) else settings_with(given or {})
    newest(settings.policy.name)  # there is one
    return settings


def _checked_run_id(run_id: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", run_id):
        raise UsageError(f"{run_id!r} is no run id; use up to 100 letters, digits and ._-, not beginning with a dot")
    return run_id
