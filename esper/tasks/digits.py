"""Digits: 1,797 handwritten digits of 8 x 8 pixels, which scikit-learn brings along; read without importing it.

The host squeezes 64 pixels into five numbers; what follows is larger than it can use.
"""

from __future__ import annotations

import gzip
import importlib.util
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from torch import nn

from esper.errors import DataUnavailable
from esper.extras import remedy
from esper.tasks.examples import Examples, Scale
from esper.tasks.files import read_checked
from esper.tasks.task import Task

SHA256 = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"
REMEDY = "install scikit-learn again (pip install --force-reinstall scikit-learn)"
_MEAN, _DEVIATION = 4.884, 6.017  # of the pixels, 0 to 16
_TEST, _GATE = 297, 300


def data_file() -> Path:
    """scikit-learn's file of the digits; raises DataUnavailable."""
    found = importlib.util.find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise DataUnavailable(f"the digits come with scikit-learn, which is not installed; {remedy('digits')}")
    return Path(found.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"


def task() -> Task:
    """The task with its data in memory, split once and for all: neighbours in the file are by one writer."""
    content, file = read_checked(data_file(), SHA256, REMEDY)
    table = np.loadtxt(gzip.decompress(content).decode().splitlines(), delimiter=",", dtype=np.uint8)
    order = np.random.Generator(np.random.PCG64(0)).permutation(len(table))
    rows = torch.from_numpy(table[order])
    known = Examples(rows[:, :-1].contiguous(), rows[:, -1].long())
    return Task(
        name="digits",
        files=(file,),
        train=known.part(slice(_TEST + _GATE, None)),
        gate=known.part(slice(_TEST, _TEST + _GATE)),
        test=known.part(slice(0, _TEST)),
        make_model=model,
        learning_rate=3e-3,
        batch_size=32,
        epochs=40,
        settings=("gate.folds=4",),
    )


def model() -> nn.Module:
    """The host, for uint8 inputs of shape [batch, 64]."""
    layers = {
        "scale": Scale(_MEAN, _DEVIATION),
        "squeeze": nn.Linear(64, 5),
        "relu1": nn.ReLU(),
        "widen": nn.Linear(5, 128),
        "relu2": nn.ReLU(),
        "out": nn.Linear(128, 10),
    }
    return nn.Sequential(OrderedDict(layers))
