"""A run's weights, taken from a checkpoint without training: into a host, or as a ``state_dict`` of their own."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from esper.artifacts import open_store
from esper.artifacts.port import ArtifactStore
from esper.client.reading import is_there
from esper.errors import CorruptArtifact, RunNotFound, UsageError
from esper.events import Event
from esper.events.runs import CheckpointCommitted
from esper.kasmina.seed.alpha import alpha
from esper.kasmina.seed.seed import SEED_PREFIX, strip
from esper.kasmina.seed.stages import IN_THE_HOST, Stage
from esper.log import open_log
from esper.log.exclusions import run_events
from esper.log.port import Log
from esper.settings import log_url
from esper.tamiyo.rules.checkpoints import best_step, is_best, newest_usable
from esper.tamiyo.run.fold import fold
from esper.tamiyo.run.state import RunState, settings_of
from esper.tezzeret.grown import join
from esper.tezzeret.module import Kernel, Placed
from esper.tolaria.checkpoint.kernels import kernel_of
from esper.tolaria.checkpoint.store import Checkpoints, Loaded
from esper.tolaria.model.host import check_like, load_tensors
from esper.tolaria.model.sites import blueprints_of

logger = logging.getLogger("esper")
At = str | int


@dataclass(frozen=True, slots=True)
class Grown:
    """A seed that has an effect on the host at a checkpoint; ``live`` says that it blends or holds, so that its tensors
    are not among the model's."""

    name: str
    kernel: Kernel
    live: bool

    @property
    def submodule(self) -> str:
        """The name of the kernel in its site's module."""
        return SEED_PREFIX + self.name.rpartition("#")[2]


def load(
    run_id: str,
    model: nn.Module,
    at: At = "last",
    *,
    live: bool = True,
    home: str | Path = ".esper",
    log: str | None = None,
) -> nn.Module:
    """Put what a run has grown and learnt into ``model``, a host as the run began with; returns ``model``.

    Args:
        at: which checkpoint: "last", "best" (of the metric that ``start(best=...)`` named), the step of one, or
            "#SEQUENCE", the newest that there was at that event.
        live: whether a seed that blends or holds there comes too, with the share that it had then.
        home, log: where the run is, as for ``start``.

    Gradients, modes (train, eval) and the random generators stay as they are. No trainer is disturbed by it.

    Raises:
        RunNotFound, UsageError (there is no such checkpoint), ModelMismatch, CorruptArtifact, LogError.
    """
    state, checkpoint, seeds = _read(run_id, at, live, Path(home), log)
    assert state.model is not None
    check_like(model, state.model)
    put_into(model, checkpoint, seeds)
    return model


def put_into(model: nn.Module, checkpoint: Loaded, seeds: list[Grown]) -> None:
    """Make ``model`` what it was at ``checkpoint``, with these of its seeds."""
    strip(model)
    device = next(iter(model.parameters()), torch.empty(0)).device
    for part in (False, True):  # the tensors of those that live are not among the model's
        for seed in seeds:
            if seed.live is part:
                join(model, seed.kernel.to(device), seed.kernel.placed, seed.submodule)
        if not part:
            load_tensors(model, checkpoint.tree["model"])


def weights(
    run_id: str, at: At = "last", *, live: bool = True, home: str | Path = ".esper", log: str | None = None
) -> tuple[int, dict[str, Tensor]]:
    """The step of a checkpoint and the ``state_dict`` of the model then; arguments and errors are those of ``load``."""
    _, checkpoint, seeds = _read(run_id, at, live, Path(home), log)
    names = checkpoint.cursor.get("names", {"left_out": [], "tied": {}})  # checkpoints of older versions have none
    found = {name: each for name, each in checkpoint.tree["model"].items() if name not in names["left_out"]}
    found |= {alias: found[name] for alias, name in names["tied"].items() if name in found}
    for seed in seeds:
        prefix = _prefix(seed)
        found |= {prefix + name: each for name, each in seed.kernel.state_dict().items() if prefix + name not in found}
    return checkpoint.step, found


def write(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> int:
    """Write ``tensors`` to a safetensors file, whole or not at all; returns its size in bytes."""
    own = {name: each.clone(memory_format=torch.contiguous_format) for name, each in tensors.items()}  # none is shared
    data = safetensors.torch.save(own, metadata={"format": "pt", **about})
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return len(data)


def last_weights(log: Log, store: ArtifactStore, state: RunState) -> tuple[Loaded, list[Grown]]:
    """The newest checkpoint of a run that is whole, with its seeds; raises CorruptArtifact."""
    damaged: set[int] = set()
    while (step := newest_usable(state, damaged)) is not None:
        committed = next(each for each in reversed(state.checkpoints) if each.step == step)
        try:
            checkpoint = Checkpoints(store, state.run_id).read(committed.manifest)
            return checkpoint, _seeds(log, store, state, checkpoint)
        except CorruptArtifact as error:
            logger.warning("run %s: %s; taking the checkpoint before", state.run_id, error)
            damaged.add(step)
    raise CorruptArtifact(f"run {state.run_id} has no checkpoint whose files are whole; restore them from a backup")


def chosen(state: RunState, at: At, events: list[Event]) -> CheckpointCommitted:
    """The checkpoint of a run that ``at`` names, as ``load`` says; raises UsageError."""
    there = {each.step: each for each in state.checkpoints}
    if at == "best":
        return there[_best(state)]
    if isinstance(at, str) and at.startswith("#"):
        step = _newest_at(state.run_id, at, events)
    elif at == "last":
        step = max(there)
    else:
        step = _number(at)
    if step not in there:
        gone = any(isinstance(each.content, CheckpointCommitted) and each.content.step == step for each in events)
        why = "was retired" if gone else "was never taken"
        steps = ", ".join(map(str, sorted(there)))
        raise UsageError(f"run {state.run_id}: the checkpoint of step {step} {why}; there are those of steps {steps}")
    return there[step]


def _best(state: RunState) -> int:
    """The step of the best checkpoint."""
    if state.best is None:
        raise UsageError(
            f"run {state.run_id} was begun without best=, so none of its checkpoints is the best; "
            'begin one with esper.start(..., best="accuracy:max"), or name a step'
        )
    name = state.best.rpartition(":")[0]
    if name not in state.metrics:
        logged = ", ".join(sorted(state.metrics)[:20]) or "none"
        raise UsageError(
            f"run {state.run_id}: its best is by the metric {name!r}, of which nothing was logged; "
            f"logged were: {logged}"
        )
    steps = {each.step for each in state.checkpoints if is_best(each.reason)}
    step = best_step(state.best, state.metrics[name])
    steps |= {each.step for each in state.checkpoints if each.step == step}
    if not steps:
        raise UsageError(f"run {state.run_id} has no checkpoint of its best step {step} yet; name another")
    return max(steps)


def _newest_at(run_id: str, at: str, events: list[Event]) -> int:
    """The step of the newest checkpoint that there was at an event."""
    number = at[1:]
    if not number.isdecimal() or not 1 <= int(number) <= len(events):
        raise UsageError(f"at={at!r} names no event of run {run_id}; it has #1 to #{len(events)}")
    then = fold(RunState(run_id), events[: int(number)])
    if not then.checkpoints:
        raise UsageError(f"run {run_id} had no checkpoint yet at event {at}")
    return max(each.step for each in then.checkpoints)


def _number(at: At) -> int:
    if isinstance(at, bool) or not str(at).isdecimal():
        raise UsageError(
            f'at={at!r} is no checkpoint; give "last", "best", the step of one, or "#" and an event\'s number'
        )
    return int(at)


def _read(run_id: str, at: At, live: bool, home: Path, url: str | None) -> tuple[RunState, Loaded, list[Grown]]:
    """The run, the checkpoint that ``at`` names, and the seeds that have an effect there."""
    place = url or log_url(home.absolute())
    if not is_there(place):
        raise RunNotFound(f"there is no run {run_id}: {place} does not exist")
    store = open_store(f"file:///{(home / 'artifacts').absolute()}")
    with closing(open_log(place)) as opened:
        tried = ""
        while True:
            events = [event for _, event in run_events(opened, run_id)]
            if not events:
                raise RunNotFound(f"there is no run {run_id} in {place}; `esper runs` lists those there are")
            state = fold(RunState(run_id), events)
            manifest = chosen(state, at, events).manifest
            try:
                checkpoint = Checkpoints(store, run_id).read(manifest)
                return (
                    state,
                    checkpoint,
                    [each for each in _seeds(opened, store, state, checkpoint) if live or not each.live],
                )
            except CorruptArtifact as error:
                if manifest == tried:
                    raise CorruptArtifact(f"{error}{_instead(opened, store, state)}") from error
                tried = manifest  # its trainer may have retired it just now


def _instead(log: Log, store: ArtifactStore, state: RunState) -> str:
    """What else there is, where a checkpoint is lost."""
    try:
        return f", or take at={last_weights(log, store, state)[0].step}, the newest that is whole"
    except CorruptArtifact:
        return ""


def _seeds(log: Log, store: ArtifactStore, state: RunState, checkpoint: Loaded) -> list[Grown]:
    """The seeds that have an effect on the host at ``checkpoint``."""
    blending = settings_of(state).blending
    assert state.sites is not None
    dims = dict(zip(state.sites.names, state.sites.dims, strict=True))
    found = []
    for name, saved in checkpoint.tree["seeds"].items():
        stage, tensors = Stage(saved["stage"]), checkpoint.tree["model"]
        if stage is not Stage.FOSSILISED and stage not in IN_THE_HOST:
            continue
        kernel = kernel_of(log, store, blueprints_of(log, state), saved["kernel_id"], newborn=False)
        share = alpha(blending.schedule, checkpoint.step - saved["since"], blending.steps)
        site = saved["site"]
        kernel.placed = Placed(site, site, dims[site], share if stage is Stage.BLENDING else 1.0)
        seed = Grown(name, kernel, stage in IN_THE_HOST)
        prefix = _prefix(seed)
        with torch.no_grad():
            for each, parameter in kernel.named_parameters():
                parameter.copy_((saved["kernel"] or {}).get(each, tensors.get(prefix + each)))
        found.append(seed)
    return found


def _prefix(seed: Grown) -> str:
    """What the names of its tensors begin with."""
    return "".join(f"{part}." for part in (seed.kernel.placed.exit, seed.submodule) if part)
