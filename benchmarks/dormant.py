"""What dormant sites cost: forward and backward of a model under Esper against a bare copy of it, in turns.

A round measures both in an order that is drawn; ratios are medians over the rounds. The same two are measured before
the run is started, which shows how far two equal models differ here (by where their tensors lie in memory).
"""

from __future__ import annotations

import copy
import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import repeat

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

import esper
from benchmarks.report import Figure, at_most, temporary_home
from esper.kasmina.sites import find_sites
from esper.tasks.examples import Batch
from esper.tasks.task import loss
from esper.tolaria import Run

TITLE = "a model whose sites are all dormant against the bare model, batch 128"
LAYERS, EXAMPLES = 100, 128
ROUNDS, STEP_ROUNDS, WARM_UP = 1000, 200, 20
LIMIT = 1.005


def figures() -> list[Figure]:
    torch.set_num_threads(1)
    mlp_batch = (torch.randn(EXAMPLES, 64), torch.randint(10, (EXAMPLES,)))
    cnn_batch = (torch.randn(EXAMPLES, 1, 8, 8), torch.randint(10, (EXAMPLES,)))
    return [*measure("MLP", mlp(), mlp_batch), *measure("CNN", cnn(), cnn_batch)]


def mlp() -> nn.Module:
    """100 layers for inputs of shape [batch, 64]."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(LAYERS - 1):
        layers += [nn.Linear(64, 64), nn.ReLU()]
    return initialised(nn.Sequential(*layers, nn.Linear(64, 10)))


def cnn() -> nn.Module:
    """100 convolutions and a last layer for inputs of shape [batch, 1, 8, 8]."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(1, 4, 3, stride=4, padding=1), nn.ReLU()]
    for _ in range(LAYERS - 1):
        layers += [nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()]
    return initialised(nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 2 * 2, 10)))


def initialised(model: nn.Module) -> nn.Module:
    """``model`` with weights that keep numbers of a usual size over 100 layers: denormal ones are slow."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter)
    return model


def measure(name: str, model: nn.Module, batch: Batch) -> list[Figure]:
    """Forward and backward, then whole steps as information."""
    models = [model, copy.deepcopy(model)]
    optimizers = [SGD(each.parameters(), lr=1e-6) for each in models]
    sites = sum(site.reason is None for site in find_sites(models[1], "auto", optimizers[1]))
    passes = [partial(forward_and_backward, each, batch) for each in models]
    steps = [partial(bare_step, each, of, batch) for each, of in zip(models, optimizers, strict=True)]
    (bare,), (step_bare,) = ratios(passes, ROUNDS), ratios(steps, STEP_ROUNDS)
    with temporary_home() as home:
        run = esper.start(models[1], optimizers[1], loss, home=home, settings={"policy": {"seeds": 0}})
        (under,), (step_under,) = ratios(passes, ROUNDS), ratios([steps[0], stepping(run, batch)], STEP_ROUNDS)
        run.finish()
    return [
        Figure(f"{name}: sites, all dormant", sites),
        Figure(f"{name}: forward and backward, bare against bare", bare),
        at_most(f"{name}: forward and backward, under Esper against bare", under, LIMIT + abs(bare - 1)),
        Figure(f"{name}: whole step, bare against bare", step_bare),
        Figure(f"{name}: whole step, run.step against bare", step_under),
    ]


def stepping(run: Run, batch: Batch) -> Callable[[], object]:
    """Calls of it do a step each, in a loop that never ends."""

    def steps() -> Iterator[float]:
        for _ in run.epochs(1):
            for each in run.batches(repeat(batch)):
                yield run.step(each)

    return partial(next, steps())


def forward_and_backward(model: nn.Module, batch: Batch) -> None:
    model.zero_grad(set_to_none=True)
    mean: Tensor = loss(model, batch).mean()
    mean.backward()


def bare_step(model: nn.Module, optimizer: Optimizer, batch: Batch) -> float:
    """A training step without Esper."""
    optimizer.zero_grad(set_to_none=True)
    mean = loss(model, batch).mean()
    mean.backward()
    optimizer.step()
    return mean.item()


def ratios(works: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """The time of every work but the first, as a multiple of the first one's: medians over interleaved rounds."""
    taken: list[list[float]] = [[] for _ in works]
    order, draw = list(range(len(works))), random.Random(0)
    with no_collection():
        for _ in range(rounds + WARM_UP):
            draw.shuffle(order)  # a fixed order would give each the caches that the same one left
            for index in order:
                began = time.perf_counter()
                works[index]()
                taken[index].append(time.perf_counter() - began)
    first = taken[0][WARM_UP:]
    return [statistics.median(b / a for a, b in zip(first, other[WARM_UP:], strict=True)) for other in taken[1:]]


@contextmanager
def no_collection() -> Iterator[None]:
    """Keeps the garbage collector's pauses out of single timings."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
