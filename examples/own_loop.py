"""A training loop of your own: a linear host learns what no linear host can, because seeds grow in it.

    python examples/own_loop.py [HOME]

The label of an example says whether its first number is far from zero. Seconds on a CPU, no data to fetch.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import esper


def examples(count: int, seed: int) -> TensorDataset:
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, (x[:, 0].abs() > 0.67).long())


def host() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Linear(16, 2))


def loss(model: nn.Module, batch: list[Tensor]) -> Tensor:
    x, y = batch
    return F.cross_entropy(model(x), y, reduction="none")  # one number per example


def accuracy(model: nn.Module) -> dict[str, float]:
    model.eval()
    with torch.no_grad():
        x, y = examples(1000, seed=3).tensors
        return {"accuracy": (model(x).argmax(1) == y).float().mean().item()}


def train(home: str, run_id: str | None = None, resume: bool = False) -> dict[str, Any]:
    """Begin the run, or go on with it. Both take the same model, optimiser, loss and data."""
    torch.set_num_threads(1)
    model = host()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=800)
    given: dict[str, Any] = {
        "gate_data": DataLoader(examples(2000, seed=2), batch_size=500),  # seeds are judged on these
        "state": {"scheduler": scheduler},  # what else must survive a crash
        "sites": ["0"],  # only after the first layer; "auto" tries every layer that can hold a seed
        "home": home,
    }
    if resume and run_id is not None:
        run = esper.resume(run_id, model, optimizer, loss, **given)
    else:
        settings = {
            "gate.folds": 4,
            "training.steps": 100,
            "boundary.steps": 25,
            "blending.steps": 50,
            "blending.holding_steps": 50,
        }
        run = esper.start(model, optimizer, loss, run_id=run_id, settings=settings, **given)
    loader = DataLoader(examples(2048, seed=1), batch_size=64, shuffle=True)
    for epoch in run.epochs(24):
        for batch in run.batches(loader):
            run.step(batch)
            scheduler.step()
        print(f"epoch {epoch}: step {run.step_number}", flush=True)
    return run.finish(test=accuracy)


if __name__ == "__main__":
    done = train(sys.argv[1] if sys.argv[1:] else ".esper")
    print(f"run {done['run_id']}: accuracy {done['test_accuracy']:.3f}, seeds {done['seeds']}")
