"""The living seeds of a run: how they learn each step, and how a transition changes the model."""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from esper.errors import ModelMismatch, Unsupported
from esper.events.runs import SeedTransitioned
from esper.kasmina import generators
from esper.kasmina.gate import GateData, evaluate
from esper.kasmina.seed.alpha import alpha, rate_factor
from esper.kasmina.seed.isolation import isolated_gradients
from esper.kasmina.seed.seed import LiveSeed
from esper.kasmina.seed.stages import IN_THE_HOST, LIVE, Stage
from esper.kasmina.sites import Site
from esper.kasmina.trace import without_trace
from esper.settings import Settings
from esper.tezzeret.module import Kernel, Placed
from esper.tolaria.model.subject import Subject, load_optimizer

logger = logging.getLogger("esper")
ATTACHED = IN_THE_HOST | {Stage.FOSSILISED}


@dataclass(slots=True)
class PlacedSeed:
    """A live or fossilised seed with what a checkpoint keeps of it.

    ``since`` is the step at which its stage began, ``blending_began`` that of BLENDING; ``trained`` and ``blended``
    count its updates in TRAINING and after; ``reference`` holds the per-example losses, shape [n], of the audit fold
    from when blending began.
    """

    seed: LiveSeed
    kernel_id: str
    since: int
    blending_began: int | None = None
    trained: int = 0
    blended: int = 0
    reference: Tensor | None = None
    gradient_norm: float | None = None

    def tree(self) -> dict[str, Any]:
        """What a checkpoint keeps of it, as a state tree: plain values, its kernel's tensors and its optimiser."""
        fossil = self.seed.stage is Stage.FOSSILISED
        tensors = OrderedDict((name, each.detach()) for name, each in self.seed.kernel.named_parameters())
        return {
            "site": self.seed.site.name,
            "kernel_id": self.kernel_id,
            "stage": str(self.seed.stage),
            "since": self.since,
            "blending_began": self.blending_began,
            "trained": self.trained,
            "blended": self.blended,
            "failed": self.seed.failed,
            "gradient_norm": self.gradient_norm,
            "reference": self.reference,
            "kernel": None if fossil else tensors,  # a fossil's tensors are the model's
            "optimizer": self.seed.optimizer.state_dict(),
        }


class Kernels(Protocol):
    """Gives a new copy of the kernel with a SHA-256, on a device; of one that is not newborn only the graph counts."""

    def __call__(self, sha256: str, device: torch.device, *, newborn: bool) -> Kernel:
        """``newborn`` says that the seed begins with its kernel's initial values; else they are set from a checkpoint
        next."""


class Seeds:
    """The seeds of one run. ``step`` is the step that is running or has just run."""

    def __init__(
        self, subject: Subject, sites: Sequence[Site], gate: GateData | None, kernels: Kernels, settings: Settings
    ) -> None:
        self.sites = list(sites)
        self.placed: dict[str, PlacedSeed] = {}
        self.step = 0
        self._subject, self._gate, self._kernels, self._settings = subject, gate, kernels, settings

    def site(self, name: str) -> Site:
        """The site of this name, which the model has to have."""
        return next(site for site in self.sites if site.name == name)

    def training(self) -> list[PlacedSeed]:
        """Seeds that learn in isolation."""
        return [each for each in self.placed.values() if each.seed.stage is Stage.TRAINING and not each.seed.failed]

    def in_the_host(self) -> list[PlacedSeed]:
        """Seeds that blend or hold."""
        return [each for each in self.placed.values() if each.seed.stage in IN_THE_HOST]

    def failed(self) -> tuple[str, ...]:
        """The living seeds whose own loss or gradient was not finite."""
        return tuple(name for name, each in self.placed.items() if each.seed.failed and each.seed.stage in LIVE)

    def learn_isolated(self, placed: PlacedSeed, batch: Any, before: generators.State) -> None:
        """One isolated update; a loss or gradient that is not finite makes the seed fail."""
        seed, subject = placed.seed, self._subject
        _, gradients = isolated_gradients(subject.model, subject.loss, batch, seed.span, seed.kernel, before)
        if gradients is None:
            seed.failed, placed.gradient_norm = True, None
            return
        factor = rate_factor(self._settings, Stage.TRAINING, placed.trained, 0)
        placed.gradient_norm = seed.learn(subject.optimizer, factor, subject.clip_norm, gradients)
        placed.trained += 1

    def learn_with_host(self) -> None:
        """Update the seeds that are part of the host from what its backward left in ``.grad``."""
        for placed in self.placed.values():
            if placed.seed.stage in ATTACHED:
                factor = rate_factor(self._settings, placed.seed.stage, placed.trained, placed.blended)
                placed.gradient_norm = placed.seed.learn(self._subject.optimizer, factor, self._subject.clip_norm)
                placed.blended += 1

    def birth_gradient(self, name: str, batch: Any) -> float | None:
        """The norm of a seed's first isolated gradient on a gate batch; None if its loss is not finite, or the kernel
        does not work on what its site is given."""
        seed, subject = self.placed[name].seed, self._subject
        with without_trace(subject.model), without_trace(seed.kernel):
            subject.model.eval()  # a batch of one example is not enough for batch norm
            try:
                _, gradients = isolated_gradients(
                    subject.model, subject.loss, batch, seed.span, seed.kernel, generators.capture()
                )
            except (RuntimeError, Unsupported) as error:  # torch's for dtypes, devices and shapes that do not fit
                reason = " ".join(str(error).split())[:300]
                logger.warning("seed %s cannot live at its site, so it is culled: %s", name, reason)
                return None
        if gradients is None:
            return None
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if norm == 0.0:
            logger.warning(
                "seed %s gets a gradient that is exactly zero, so it is culled: the loss does not depend on its site, "
                "or part of the model or of the loss is compiled or detached",
                name,
            )
        return norm if math.isfinite(norm) else None

    def switched_off(self, name: str) -> AbstractContextManager[None]:
        """The host without the effect of a seed that is part of it."""
        return self.placed[name].seed.off()

    def apply(self, event: SeedTransitioned) -> None:
        """Do to the model what a committed transition says. Restoring the host after a cull is the trainer's part."""
        to = Stage(event.to_stage)
        if to is Stage.GERMINATED:
            self.placed[event.seed] = self._sprout(event.seed, event.site, event.kernel, to, event.step, newborn=True)
            return
        placed = self.placed[event.seed]
        if to is Stage.CULLED:
            placed.seed.detach()
            del self.placed[event.seed]
            return
        if to is Stage.BLENDING and event.evidence is not None and event.evidence.audit_fold is not None:
            placed.reference = self._losses(event.evidence.audit_fold)
            placed.blending_began = event.step
        if to is Stage.FOSSILISED:
            placed.reference = None
        self._enter(placed, to, event.step)

    def tree(self) -> dict[str, Any]:
        """What checkpoints keep of all seeds, by name; ``rebuild`` makes them again of it."""
        return {name: placed.tree() for name, placed in self.placed.items()}

    def rebuild(self, tree: dict[str, Any]) -> None:
        """Make the seeds those of a checkpoint. A fossil's tensors come with the model's."""
        for placed in self.placed.values():
            placed.seed.detach()
        self.placed = {}
        for name, saved in tree.items():
            placed = self._sprout(
                name, saved["site"], saved["kernel_id"], Stage.GERMINATED, saved["since"], newborn=False
            )
            self.placed[name] = placed
            placed.blending_began = saved["blending_began"]
            placed.trained, placed.blended = saved["trained"], saved["blended"]
            placed.reference, placed.gradient_norm = saved["reference"], saved["gradient_norm"]
            placed.seed.failed = saved["failed"]
            if saved["kernel"] is not None:
                _copy_into(dict(placed.seed.kernel.named_parameters()), saved["kernel"])
            self._enter(placed, Stage(saved["stage"]), saved["since"])
            load_optimizer(placed.seed.optimizer, saved["optimizer"])

    def restore_fossils(self, tree: dict[str, Any]) -> None:
        """Set the optimisers of fossilised seeds back to those of a checkpoint."""
        for name, placed in self.placed.items():
            if placed.seed.stage is Stage.FOSSILISED:
                load_optimizer(placed.seed.optimizer, tree[name]["optimizer"])

    def _sprout(
        self, name: str, site_name: str, kernel_id: str, stage: Stage, step: int, *, newborn: bool
    ) -> PlacedSeed:
        site = self.site(site_name)
        kernel = self._kernels(kernel_id, site.anchor.device, newborn=newborn)
        kernel.placed = Placed(site.name, site.name, site.dims)
        seed = LiveSeed(name, site, kernel, self._subject.optimizer, stage)
        return PlacedSeed(seed, kernel_id, step)

    def _enter(self, placed: PlacedSeed, stage: Stage, step: int) -> None:
        placed.seed.stage, placed.since = stage, step
        if stage in IN_THE_HOST:
            placed.seed.attach(partial(self.alpha, placed))
        elif stage is Stage.FOSSILISED:
            placed.seed.fossilise()

    def alpha(self, placed: PlacedSeed) -> float:
        """The share of its effect that a seed in the host has at this step."""
        if placed.seed.stage is not Stage.BLENDING:
            return 1.0
        blending = self._settings.blending
        return alpha(blending.schedule, self.step - placed.since, blending.steps)

    def _losses(self, fold: int) -> Tensor | None:
        if self._gate is None:
            return None
        return evaluate(self._subject.model, self._subject.loss, self._gate.fold(fold))

    def __iter__(self) -> Iterator[PlacedSeed]:
        return iter(self.placed.values())


def _copy_into(mine: dict[str, Tensor], saved: dict[str, Tensor]) -> None:
    if set(mine) != set(saved):
        raise ModelMismatch("a seed's kernel has other tensors than its checkpoint; was the artifact store changed?")
    with torch.no_grad():
        for name, tensor in mine.items():
            tensor.copy_(saved[name])
