"""A model and a loop of the tests' own: dropout, batch norm, a scheduler, a shuffled loader, seeds kept and culled.

    python moons.py start|resume HOME RUN [EPOCHS]

The host is linear but for one narrow layer and the classes are products of inputs, so a seed that is not linear helps.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import esper

SETTINGS = {
    "boundary": {"steps": 10},
    "checkpoint": {"steps": 60, "keep": 2},
    "gate": {"folds": 5},
    "training": {"steps": 40, "warmup": 5, "learning_rate": 3.0},
    "blending": {"steps": 20, "holding_steps": 10},
    "policy": {"warmup": 10, "budget": 50.0, "embargo": 20},
    "verdict": {"alpha": 0.45, "delta": 0.0, "measurements": 3},
}
EPOCHS = 5


def build() -> tuple[nn.Module, torch.optim.Optimizer, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Dropout(0.1), nn.Linear(6, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return model, optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=1000)


def data(workers: int = 0) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """60 batches an epoch, and the gate's."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4400, 8, generator=generator)
    y = (x[:, 0] * x[:, 1] + 0.5 * x[:, 2] > 0).long()
    shuffled = DataLoader(TensorDataset(x[:2400], y[:2400]), batch_size=40, shuffle=True, num_workers=workers)
    return shuffled, DataLoader(TensorDataset(x[2400:], y[2400:]), batch_size=400)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return F.cross_entropy(model(x), y, reduction="none")


def main(
    mode: str,
    home: str,
    run_id: str,
    epochs: int = EPOCHS,
    nan: Sequence[int] = (),
    sleep: tuple[int, float] = (0, 0),
    workers: int = 0,
) -> None:
    """Train. The batches of the steps ``nan`` hold NaN; ``sleep`` (step, seconds) makes one step long."""
    torch.set_num_threads(1)
    model, optimizer, scheduler = build()
    loader, gate = data(workers)
    arguments: dict[str, Any] = {"gate_data": gate, "state": {"scheduler": scheduler}, "clip_norm": 1.0, "home": home}
    if mode == "start":
        run = esper.start(model, optimizer, loss, run_id=run_id, settings=SETTINGS, **arguments)
    else:
        run = esper.resume(run_id, model, optimizer, loss, **arguments)
    for _ in run.epochs(epochs):
        for x, y in run.batches(loader):
            step = run.step_number + 1
            if step == sleep[0]:
                print("sleeping", flush=True)
                time.sleep(sleep[1])
            run.step((x * float("nan") if step in nan else x, y))
            scheduler.step()
    print(json.dumps(run.finish(test=lambda model: {"weight": model[0].weight.sum().item()})), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], *(int(each) for each in sys.argv[4:]))
