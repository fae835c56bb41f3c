"""The model as committed events change it: those of a live boundary or rollback, and those run again from the log."""

from __future__ import annotations

from collections.abc import Iterable

from esper.events.runs import RolledBack, SeedTransitioned
from esper.kasmina.seed.stages import IN_THE_HOST, Stage
from esper.tolaria.checkpoint.retention import Keeper
from esper.tolaria.model.host import load_tensors
from esper.tolaria.model.seeds import Garden
from esper.tolaria.model.subject import Subject


class Changes:
    """Changes one run's model. Its methods belong to the training thread."""

    def __init__(self, subject: Subject, garden: Garden, keeper: Keeper) -> None:
        self._subject, self._garden, self._keeper = subject, garden, keeper

    def apply(self, contents: Iterable[object]) -> None:
        """Do to the model what the events of one step say, in their order; most say nothing about it."""
        for content in contents:
            if isinstance(content, RolledBack):
                self._undo(content.to_step)
            elif isinstance(content, SeedTransitioned):
                self._move(content)

    def _move(self, event: SeedTransitioned) -> None:
        """Move a seed to its stage. A cull out of the host gives that back as it was when blending began."""
        began = self._blending_began(event)
        self._garden.apply(event)
        if began is not None:
            self._restore_host(began)

    def _undo(self, to_step: int) -> None:
        """Return to the committed checkpoint of ``to_step``, seeds too; learning rates and all else go on."""
        self._keeper.commit(wait=True)
        tree = self._keeper.read(to_step).tree
        self._garden.rebuild(tree["seeds"])
        load_tensors(self._subject.model, tree["model"])
        self._subject.load_optimizer(tree["optimizer"], rates=False)

    def _blending_began(self, event: SeedTransitioned) -> int | None:
        """For a cull out of the host: the step of the checkpoint from when blending began."""
        if event.to_stage != Stage.CULLED or Stage(event.from_stage) not in IN_THE_HOST:
            return None
        return self._garden.plants[event.seed].blending_began

    def _restore_host(self, step: int) -> None:
        """Return parameters, buffers and optimiser state to a checkpoint; learning rates and all else go on."""
        self._keeper.commit(wait=True)
        tree = self._keeper.read(step).tree
        load_tensors(self._subject.model, tree["model"])
        self._subject.load_optimizer(tree["optimizer"], rates=False)
        self._garden.restore_fossils(tree["seeds"])
