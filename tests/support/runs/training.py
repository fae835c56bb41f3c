"""Small runs in this process: a model and a loop, crashed where a test likes, resumed and compared."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import esper
from esper.events.runs import SeedTransitioned
from esper.tolaria import Run
from tests.support.logs.runlog import events, history

SETTINGS: dict[str, dict[str, Any]] = {
    "boundary": {"steps": 4},
    "checkpoint": {"steps": 6, "keep": 2},
    "gate": {"folds": 4},
    "training": {"steps": 16, "warmup": 4, "learning_rate": 10.0},
    "blending": {"steps": 8, "holding_steps": 8},
    "policy": {"warmup": 4, "budget": 50.0, "embargo": 8, "exploration": 0.0},
    "verdict": {"alpha": 0.4, "measurements": 2, "delta": 0.0, "rent": 0.0},
    "log": {"patience": 20.0},
}


def settings(**sections: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """SETTINGS with other options: ``settings(boundary={"steps": 2})``."""
    return {name: {**SETTINGS.get(name, {}), **sections.get(name, {})} for name in {**SETTINGS, **sections}}


def examples(count: int, seed: int = 1) -> TensorDataset:
    """x [count, 4] and y [count, 1], mostly an absolute value: a linear host learns little of it, a seed much."""
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, 2 * x[:, :1].abs() + 0.3 * x[:, 2:3])


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return (model(x) - y).square()


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1e-2)


def host() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.1), nn.Linear(4, 1))


def scheduler(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.9)}


def shuffled(count: int = 64) -> Iterable[Any]:
    return DataLoader(examples(count), batch_size=8, shuffle=True)


def held_out() -> Iterable[Any]:
    return DataLoader(examples(400, seed=2), batch_size=100)


@dataclass
class Loop:
    """A training program. ``begin`` and ``resume`` make everything anew, as another process would; after a resume
    NumPy's and Python's generators are wherever the crash left them."""

    home: Path
    model: Callable[[], nn.Module] = host
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] = adam
    state: Callable[[torch.optim.Optimizer], dict[str, Any]] = scheduler
    loader: Callable[[], Iterable[Any]] = shuffled
    gate: Callable[[], Iterable[Any] | None] = held_out
    loss: Callable[..., Any] = loss
    settings: Mapping[str, Any] = field(default_factory=lambda: SETTINGS)
    epochs: int = 5
    more: dict[str, Any] = field(default_factory=dict)

    def begin(self, run_id: str = "run", **more: Any) -> Run:
        np.random.seed(0)
        random.seed(0)
        model, optimizer, arguments = self._made(more)
        self.run = esper.start(model, optimizer, self.loss, run_id=run_id, settings=self.settings, **arguments)
        return self.run

    def resume(self, run_id: str = "run", **more: Any) -> Run:
        model, optimizer, arguments = self._made(more)
        self.run = esper.resume(run_id, model, optimizer, self.loss, **arguments)
        return self.run

    def go(self, until: int | None = None, on_batch: Callable[[int, Any], Any] = lambda step, batch: batch) -> Any:
        """Train to the end; or until that step, and crash there, with the committed events on the log."""
        run = self.run
        for _ in run.epochs(self.epochs):
            for batch in run.batches(self.batches):
                run.step(on_batch(run.step_number + 1, batch))
                for each in self.stateful.values():
                    each.step()
                if run.step_number == until:
                    return self.crash()
        assert until is None, f"the loop ended at step {run.step_number}"
        return run.finish(test=lambda model: {"weight": next(model.parameters()).sum().item()})

    def crash(self) -> None:
        """What this process has committed stands; nothing else is done in good order."""
        self.run.close()

    def whole(self, run_id: str = "whole") -> list[tuple[str, Any]]:
        """The history of a run that nothing interrupts."""
        self.begin(run_id)
        self.go()
        return history(self.home, run_id)

    def torn(self, *steps: int, run_id: str = "torn") -> list[tuple[str, Any]]:
        """The history of a run that crashes after each of ``steps``."""
        self.begin(run_id)
        for step in steps:
            self.go(until=step)
            self.resume(run_id)
        self.go()
        return history(self.home, run_id)

    def _made(self, more: dict[str, Any]) -> tuple[nn.Module, torch.optim.Optimizer, dict[str, Any]]:
        torch.manual_seed(0)
        model = self.model()
        optimizer = self.optimizer(model)
        self.stateful, self.batches = self.state(optimizer), self.loader()
        arguments = {"gate_data": self.gate(), "state": self.stateful, "home": self.home} | self.more | more
        return model, optimizer, arguments


def contents(home: Path, kind: type, run_id: str = "run") -> list[Any]:
    """The contents of one kind, in order."""
    return [event.content for event in events(home, run_id) if isinstance(event.content, kind)]


def stages(home: Path, run_id: str = "run") -> list[tuple[int, str, str]]:
    """(step, seed, stage) of every transition."""
    return [(each.step, each.seed, each.to_stage) for each in contents(home, SeedTransitioned, run_id)]
