"""What the digest of the state at a boundary costs: of model, optimiser, generators and all else, as the trainer makes
it, against the 50 training steps between two boundaries. Adam, batch 64, one thread.

Steps are a run's own, with telemetry, all seeds dormant and no boundary among them. Digests come after blocks of steps,
so that they find the caches as at a boundary, once every generator has been drawn from. SHA-256 gets the same tree.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

import esper
from benchmarks.dormant import initialised, no_collection, stepping
from benchmarks.report import Figure, at_most, temporary_home
from esper.tasks.task import loss
from esper.tolaria.model.digest import digest_tree

TITLE = "the digest of the state at a boundary against 50 steps, MLP, Adam, batch 64, one thread"
WIDTHS = {"1 M": 536, "10 M": 2040, "25 M": 3340}
STEPS, BATCH, INPUTS = 50, 64, 784
BLOCK, BLOCKS = 5, 12  # steps before a digest
WARM_UP = 2  # blocks
LIMIT = 0.005


def figures() -> list[Figure]:
    torch.set_num_threads(1)
    return [figure for name, width in WIDTHS.items() for figure in measure(name, width)]


def mlp(width: int) -> nn.Module:
    """Three hidden layers for inputs of shape [batch, INPUTS]."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs in (INPUTS, width, width):
        layers += [nn.Linear(inputs, width), nn.ReLU()]
    return initialised(nn.Sequential(*layers, nn.Linear(width, 10)))


def measure(name: str, width: int) -> list[Figure]:
    """Medians over the blocks."""
    model = mlp(width)
    parameters = sum(each.numel() for each in model.parameters())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-6)
    settings = {"policy": {"seeds": 0}, "boundary": {"steps": 10**6}, "checkpoint": {"steps": 10**6}}
    with temporary_home() as home:
        run = esper.start(model, optimizer, loss, home=home, settings=settings)
        trainer = run._trainer
        assert trainer is not None
        batch = torch.randn(BATCH, INPUTS), torch.randint(10, (BATCH,))
        random.random(), np.random.rand()
        step = stepping(run, batch)
        steps, digests, sha256 = [], [], []
        with no_collection():
            for _ in range(WARM_UP + BLOCKS):
                steps += [_seconds(step) for _ in range(BLOCK)]
                digests.append(_seconds(trainer.digest))
                sha256.append(_seconds(lambda: digest_tree(trainer.tree(), "sha256")))
        run.finish()
    between = STEPS * statistics.median(steps[WARM_UP * BLOCK :])
    ours, theirs = (statistics.median(each[WARM_UP:]) for each in (digests, sha256))
    return [
        Figure(f"{name}: parameters", parameters),
        Figure(f"{name}: {STEPS} steps, milliseconds", between * 1000),
        Figure(f"{name}: the digest, milliseconds", ours * 1000),
        at_most(f"{name}: the digest, share of {STEPS} steps", ours / between, LIMIT),
        Figure(f"{name}: by SHA-256, milliseconds", theirs * 1000),
        Figure(f"{name}: by SHA-256, share of {STEPS} steps", theirs / between),
    ]


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
