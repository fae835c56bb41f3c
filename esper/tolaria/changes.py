"""Does to the model what committed events say, whether they are new or steps are run again from the log."""

from __future__ import annotations

from collections.abc import Iterable

from esper.events.runs import RolledBack, SeedTransitioned
from esper.kasmina.seed.stages import IN_THE_HOST, Stage
from esper.tolaria.checkpoint.retention import Retention
from esper.tolaria.model.host import load_tensors
from esper.tolaria.model.seeds import Seeds
from esper.tolaria.model.subject import Subject


class Changes:
    """Changes one run's model. Its methods belong to the training thread."""

    def __init__(self, subject: Subject, seeds: Seeds, retention: Retention) -> None:
        self._subject, self._seeds, self._retention = subject, seeds, retention

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
        self._seeds.apply(event)
        if began is not None:
            self._restore_host(began)

    def _undo(self, to_step: int) -> None:
        """Return to the committed checkpoint of ``to_step``, seeds too; learning rates and all else go on."""
        self._retention.commit(wait=True)
        tree = self._retention.read(to_step).tree
        self._seeds.rebuild(tree["seeds"])
        load_tensors(self._subject.model, tree["model"])
        self._subject.load_optimizer(tree["optimizer"], rates=False)

    def _blending_began(self, event: SeedTransitioned) -> int | None:
        """For a cull out of the host: the step of the checkpoint from when blending began."""
        if event.to_stage != Stage.CULLED or Stage(event.from_stage) not in IN_THE_HOST:
            return None
        return self._seeds.placed[event.seed].blending_began

    def _restore_host(self, step: int) -> None:
        """Return parameters, buffers and optimiser state to a checkpoint; learning rates and all else go on."""
        self._retention.commit(wait=True)
        tree = self._retention.read(step).tree
        load_tensors(self._subject.model, tree["model"])
        self._subject.load_optimizer(tree["optimizer"], rates=False)
        self._seeds.restore_fossils(tree["seeds"])
