"""Does a verdict keep useful seeds and cull useless ones? Whole runs whose answer is known, one seed each.

Images of 4 channels are of two classes: channels 0 and 1 rise and fall together, or against each other. A host whose
convolution looks at each channel alone (its groups) cannot tell, and every blueprint mixes channels: a useful seed.
Useless by construction are a seed whose input is constant, one at a host that is larger than the task needs and has
learnt it, and one where labels are random. The blueprint is drawn, the verdict's settings are the defaults.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils.data import DataLoader, TensorDataset

import esper
from benchmarks.report import Figure, at_least, at_most, temporary_home
from esper.events.runs import SeedTransitioned
from esper.kasmina.seed.stages import Stage
from esper.tamiyo.run.state import SeedState
from esper.tasks.task import loss

TITLE = "seeds kept that are useful, and that are useless"
PLANTED = 20
CHANNELS, SIDE, GATE, BATCH, STEPS = 4, 6, 2000, 64, 300
CORRELATION, NOISE = 0.6, 0.1  # of the two channels; the share of labels that are wrong
SETTINGS = {
    "boundary": {"steps": 10},
    "training": {"steps": 100, "warmup": 20},
    "blending": {"steps": 30, "holding_steps": 20},
    "policy": {"seeds": 1, "warmup": 20, "budget": 100.0, "exploration": 1.0},
}


def figures() -> list[Figure]:
    torch.set_num_threads(1)
    found = []
    culprits = 0
    for name, plant in PLANTS.items():
        seeds = [plant(number) for number in range(PLANTED)]
        kept = sum(seed.stage is Stage.FOSSILISED for seed in seeds)
        gains = [gain for seed in seeds if (gain := verdict_gain(seed)) is not None]
        if name == "useful":
            found.append(at_least(f"{name}: kept of {len(seeds)}", kept, 0.9 * len(seeds)))
        else:
            culprits += kept
            found.append(Figure(f"{name}: kept of {len(seeds)}", kept))
        found.append(Figure(f"{name}: median gain at the verdict", statistics.median(gains)))
        found.append(Figure(f"{name}: largest gain at the verdict", max(gains)))
        found.append(Figure(f"{name}: smallest gain at the verdict", min(gains)))
    useless = (len(PLANTS) - 1) * PLANTED
    return [*found, at_most(f"useless: kept of {useless}", culprits, useless / 60)]


class Starved(nn.Module):
    """Classifies images [batch, channels, side, side] by the mean of ``width`` rectified features."""

    def __init__(self, groups: int, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, width, 1, groups=groups)
        self.out = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.conv(x)).mean((2, 3)))


class WithConstant(nn.Module):
    """A host with a second convolution that only ever sees ones."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(CHANNELS, 8, 1, groups=CHANNELS)
        self.conv = nn.Conv2d(CHANNELS, 8, 1)
        self.out = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.body(x) + self.conv(torch.ones_like(x))).mean((2, 3)))


def useful(number: int) -> SeedState:
    torch.manual_seed(number)
    return grown(Starved(groups=CHANNELS), examples(), number)


def constant_input(number: int) -> SeedState:
    torch.manual_seed(1000 + number)
    return grown(WithConstant(), examples(), number)


def oversized_host(number: int) -> SeedState:
    torch.manual_seed(2000 + number)
    model, data = Starved(groups=1, width=32), examples()
    learn(model, data)
    return grown(model, data, number, rate=1e-3)


def shuffled_labels(number: int) -> SeedState:
    torch.manual_seed(3000 + number)
    x, y = examples()
    return grown(Starved(groups=CHANNELS), (x, y[torch.randperm(len(y))]), number)


PLANTS: dict[str, Callable[[int], SeedState]] = {
    "useful": useful,
    "constant input": constant_input,
    "oversized host": oversized_host,
    "shuffled labels": shuffled_labels,
}


def examples() -> tuple[Tensor, Tensor]:
    """Images and labels, enough for every step to see new ones; the last ``GATE`` are held out."""
    count = STEPS * BATCH + GATE
    y = torch.randint(2, (count,))
    x = torch.randn(count, CHANNELS, SIDE, SIDE)
    sign = (2.0 * y - 1).view(-1, 1, 1)
    x[:, 1] = sign * CORRELATION * x[:, 0] + (1 - CORRELATION**2) ** 0.5 * x[:, 1]
    wrong = torch.rand(count) < NOISE
    return x, torch.where(wrong, 1 - y, y)


def loaders(data: tuple[Tensor, Tensor]) -> tuple[DataLoader[Any], DataLoader[Any]]:
    x, y = data
    train = DataLoader(TensorDataset(x[:-GATE], y[:-GATE]), batch_size=BATCH, shuffle=True)
    return train, DataLoader(TensorDataset(x[-GATE:], y[-GATE:]), batch_size=GATE // 2)


def learn(model: nn.Module, data: tuple[Tensor, Tensor], rate: float = 2e-2) -> None:
    """Trains the host to its best, without Esper."""
    optimizer = AdamW(model.parameters(), lr=rate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for batch in loaders(data)[0]:
        optimizer.zero_grad()
        loss(model, batch).mean().backward()
        optimizer.step()
        scheduler.step()


def grown(model: nn.Module, data: tuple[Tensor, Tensor], seed: int, rate: float = 1e-2) -> SeedState:
    """Trains ``model`` as a run with one site until its one seed is kept or culled; returns that seed."""
    train, gate = loaders(data)
    optimizer = AdamW(model.parameters(), lr=rate)
    with temporary_home() as home:
        run = esper.start(
            model, optimizer, loss, gate_data=gate, sites=["conv"], seed=seed, home=home, settings=SETTINGS
        )
        for _ in run.epochs(1):
            for batch in run.batches(train):
                run.step(batch)
                if any(not each.live for each in run.state.seeds.values()):
                    break
        run.finish()
    (planted,) = run.state.seeds.values()
    return planted


def verdict_gain(seed: SeedState) -> float | None:
    """The mean gain on the gate fold that the verdict saw."""
    moves: list[SeedTransitioned] = [each for each in seed.transitions if each.gate == "verdict"]
    return moves[0].evidence.mean if moves and moves[0].evidence is not None else None
