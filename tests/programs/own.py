"""A program of a user's own: ``own.py HOME [quiet]`` trains a small model, slowly, and prints its epochs."""

from __future__ import annotations

import sys
import time

import torch
from torch import nn
from torch.utils.data import DataLoader

import esper
from tests.support.runs.training import examples, loss, settings

torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
run = esper.start(
    model,
    torch.optim.Adam(model.parameters(), lr=1e-2),
    loss,
    gate_data=DataLoader(examples(400, seed=2), batch_size=100),
    home=sys.argv[1],
    run_id="own",
    settings=settings(),
    progress="quiet" not in sys.argv,
)
loader = DataLoader(examples(64), batch_size=8)
for epoch in run.epochs(12):
    for batch in run.batches(loader):
        run.step(batch)
        time.sleep(0.02)
    run.log({"epoch/done": epoch})
    print("epoch", epoch)
run.finish()
