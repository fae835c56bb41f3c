"""The model as committed events change it, whether they were written just now or are run again from the log."""

from __future__ import annotations

from collections.abc import Iterable

from esper.events.runs import SeedTransitioned
from esper.kasmina.stages import IN_THE_HOST, Stage
from esper.tolaria.garden import Garden
from esper.tolaria.keeper import Keeper
from esper.tolaria.subject import Subject


class Changes:
    """Changes one run's model. Its methods belong to the training thread, and return what makes a checkpoint due."""

    def __init__(self, subject: Subject, garden: Garden, keeper: Keeper) -> None:
        self._subject, self._garden, self._keeper = subject, garden, keeper

    def apply(self, moves: Iterable[SeedTransitioned]) -> list[str]:
        """Move seeds to their stages. A cull out of the host gives that back as it was when blending began."""
        reasons = []
        for event in moves:
            began = self._blending_began(event)
            self._garden.apply(event)
            if began is not None:
                self._keeper.commit(wait=True)
                self._restore_host(began)
            if event.to_stage == Stage.BLENDING:
                reasons.append("blending")
            if event.to_stage == Stage.FOSSILISED:
                reasons.append("fossilised")
        return reasons

    def undo(self, to_step: int, culls: Iterable[SeedTransitioned]) -> list[str]:
        """Return to the committed checkpoint of ``to_step``, seeds too, and apply ``culls`` to that."""
        tree = self._keeper.read(to_step).tree
        self._garden.rebuild(tree["seeds"])
        self._subject.load_tensors(tree["model"])
        self._subject.load_optimizer(tree["optimizer"], rates=False)
        return ["rollback", *self.apply(culls)]

    def _blending_began(self, event: SeedTransitioned) -> int | None:
        """For a cull out of the host: the step of the checkpoint from when blending began."""
        if event.to_stage != Stage.CULLED or Stage(event.from_stage) not in IN_THE_HOST:
            return None
        return self._garden.plants[event.seed].blending_began

    def _restore_host(self, step: int) -> None:
        """Return parameters, buffers and optimiser state to a checkpoint; learning rates and all else go on."""
        tree = self._keeper.read(step).tree
        self._subject.load_tensors(tree["model"])
        self._subject.load_optimizer(tree["optimizer"], rates=False)
        self._garden.restore_fossils(tree["seeds"])
