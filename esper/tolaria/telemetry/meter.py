"""What is measured of each step, for telemetry. The training does not depend on it, and it changes nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

from esper.kasmina.seed.stages import IN_THE_HOST, LIVE
from esper.settings import Telemetry
from esper.tolaria.model.seeds import Seeds
from esper.tolaria.model.subject import Subject
from esper.tolaria.telemetry.recorder import Measurement, Recorder


class Meter:
    """Measures the steps of one run. Its methods belong to the training thread."""

    def __init__(self, subject: Subject, seeds: Seeds, recorder: Recorder, settings: Telemetry) -> None:
        self._subject, self._seeds, self._recorder, self._settings = subject, seeds, recorder, settings
        self._began = 0.0

    @property
    def dropped(self) -> int:
        """Measurements that the log was too slow for."""
        return self._recorder.dropped

    def begin(self) -> None:
        """A step begins."""
        self._began = time.perf_counter()

    def end(self, step: int, epoch: int, loss: float) -> None:
        """It ended with this loss of its mini-batch."""
        if step % self._settings.every == 0:
            seconds = time.perf_counter() - self._began
            self._recorder.record(step, epoch, [*self._whole(loss, seconds), *self._living(), *self._sites(step)])

    def rolled_back(self) -> None:
        """The run went back to a checkpoint: the steps that follow are another attempt's."""
        self._recorder.next_attempt()

    def close(self) -> None:
        """Send what is left, as far as that takes no longer than a moment, and end the sending thread."""
        self._recorder.close()

    def _whole(self, loss: float, seconds: float) -> Iterator[Measurement]:
        yield "loss", "", loss
        yield "step_seconds", "", seconds
        yield "learning_rate", "", float(self._subject.optimizer.param_groups[0]["lr"])

    def _living(self) -> Iterator[Measurement]:
        """Of the seeds that learn now."""
        for placed in self._seeds:
            if placed.gradient_norm is not None and placed.seed.stage in LIVE:  # a fossil keeps its last one
                yield "gradient_norm", placed.seed.name, placed.gradient_norm
            if placed.seed.stage in IN_THE_HOST:
                yield "alpha", placed.seed.name, self._seeds.alpha(placed)

    def _sites(self, step: int) -> Iterator[Measurement]:
        """Of the host's sites: norms of their weights and of the gradients that the step has used."""
        if self._settings.sites == 0 or step % self._settings.sites:
            return
        with torch.no_grad():
            found = [(site.name, site.weight) for site in self._seeds.sites if site.reason is None]
            weights = [(name, weight) for name, weight in found if weight is not None]
            yield from _norms("weight_norm", [name for name, _ in weights], [weight for _, weight in weights])
            given = [(name, weight.grad) for name, weight in weights if weight.grad is not None]
            yield from _norms("gradient_norm", [name for name, _ in given], [grad for _, grad in given])


def _norms(metric: str, names: list[str], tensors: list[torch.Tensor]) -> Iterator[Measurement]:
    if tensors:
        values = torch.stack(torch._foreach_norm(tensors)).tolist()  # one copy from the device for all
        yield from ((metric, name, value) for name, value in zip(names, values, strict=True))
