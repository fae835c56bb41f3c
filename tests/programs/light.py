"""A training of one's own that kills itself at step 30 and is resumed when it is started again: ``light.py HOME``."""

from __future__ import annotations

import os
import signal
import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import esper


def loss(model, batch):
    x, y = batch
    return (model(x) - y).square().mean(1)


def examples(count, seed):
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, 2 * x[:, :1].abs())


home = sys.argv[1]
again = os.path.exists(os.path.join(home, "log.db"))
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
optimizer = torch.optim.Adam(model.parameters(), 1e-2)
loader = DataLoader(examples(160, seed=1), batch_size=8)
more = {"home": home, "gate_data": DataLoader(examples(80, seed=2), batch_size=40)}
settings = {"boundary": {"steps": 10}, "policy": {"warmup": 10}}
if again:
    run = esper.resume("run", model, optimizer, loss, **more)
else:
    run = esper.start(model, optimizer, loss, run_id="run", settings=settings, **more)
with run:
    for _ in run.epochs(3):
        for batch in run.batches(loader):
            run.step(batch)
            if run.step_number == 30 and not again:
                os.kill(os.getpid(), signal.SIGKILL)
    run.finish()
