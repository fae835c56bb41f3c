"""Measures how well sites learn (their *health*), from the activations and gradients of one sampled step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from esper.events.runs import Health
from esper.kasmina.kinds import KINDS
from esper.kasmina.sites import Site

DORMANT = 0.025  # largest score of a dormant unit (ReDo, ICML 2023)


class Probe:
    """Measures the sites ``chosen`` (indices into ``model_sites``) during one forward and backward of the host.

    ::

        with Probe(sites, chosen) as probe:
            mean_loss.backward()
            probe.gradients()
        probe.result()

    Activations are read when a layer gives them, before an in-place ReLU changes them. No gradient passes through a
    hook of the probe, and no value on the host's way is replaced.
    """

    def __init__(self, model_sites: Sequence[Site], chosen: Sequence[int]) -> None:
        self._chosen = tuple(chosen)
        self._sites = [model_sites[index] for index in self._chosen]
        self._handles: list[RemovableHandle] = []
        self._activations: dict[int, Tensor] = {}
        self._gradients: dict[int, Tensor] = {}

    def __enter__(self) -> Probe:
        for place, site in enumerate(self._sites):
            if site.reason is None:
                reader = _Reader(self._activations, place, KINDS[site.kind].unit)
                self._handles.append(site.span.exit.register_forward_hook(reader))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def gradients(self) -> None:
        """Reads the gradients of the weights that sites have. Call it after backward and before clipping."""
        for place, site in enumerate(self._sites):
            weight = site.weight
            if site.reason is None and weight is not None and weight.grad is not None:
                norms = [torch.linalg.vector_norm(t.detach().float()) for t in (weight.grad, weight)]
                self._gradients[place] = torch.stack([norms[0], norms[0] / norms[1]])

    def result(self) -> Health:
        """What was measured, in the order of ``chosen``; None where it was not, or is not finite."""
        activations, gradients = _numbers(self._activations), _numbers(self._gradients)
        places = range(len(self._chosen))
        mean, variance, dormant = ([_at(activations, place, i) for place in places] for i in range(3))
        norm, ratio = ([_at(gradients, place, i) for place in places] for i in range(2))
        nothing = (None,) * len(self._chosen)
        return Health(
            site=self._chosen,
            activation_mean=tuple(mean),
            activation_variance=tuple(variance),
            dormant_share=tuple(dormant),
            gradient_norm=tuple(norm),
            gradient_to_weight=tuple(ratio),
            effective_rank=nothing,
            correlation=nothing,
            bottleneck=nothing,
        )


class _Reader:
    """A forward hook that measures the layer's first output and changes nothing."""

    def __init__(self, found: dict[int, Tensor], place: int, unit: int) -> None:
        self.found, self.place, self.unit = found, place, unit

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if self.place not in self.found:
            with torch.no_grad():
                self.found[self.place] = activation_statistics(output.detach(), self.unit)


def activation_statistics(output: Tensor, unit_dim: int) -> Tensor:
    """Mean, population variance and dormant share of a layer's output, whose units lie along ``unit_dim``, as a tensor
    of three."""
    values = output.float()
    variance, mean = torch.var_mean(values, correction=0)
    return torch.stack([mean, variance, dormant_share(values, unit_dim)])


def dormant_share(values: Tensor, unit_dim: int) -> Tensor:
    """The share of units i with mean |relu(h_i)| at most 0.025 of the units' average; 1 if all are zero, NaN if any
    is not finite (ReDo, "The Dormant Neuron Phenomenon in Deep Reinforcement Learning")."""
    units = values.movedim(unit_dim, -1).flatten(0, -2) if values.dim() > 1 else values.unsqueeze(0)
    size = torch.relu(units).mean(0)
    average = size.mean()
    share = (size <= DORMANT * average).float().mean()
    return torch.where(torch.isfinite(average), share, torch.nan)


def _numbers(found: dict[int, Tensor]) -> dict[int, list[float]]:
    """All tensors as floats, in one transfer from the device."""
    if not found:
        return {}
    rows: list[list[float]] = torch.stack([tensor.cpu() for tensor in found.values()]).tolist()
    return dict(zip(found, rows, strict=True))


def _at(measured: dict[int, list[float]], place: int, index: int) -> float | None:
    value = measured[place][index] if place in measured else math.nan
    return value if math.isfinite(value) else None
