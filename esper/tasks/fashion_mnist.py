"""Fashion-MNIST: 60,000 + 10,000 grey images of clothes, 28 x 28, ten kinds; from Debian's dataset-fashion-mnist.

The host is starved of what it cannot learn by itself: it is linear, so a nonlinear seed helps and a linear one cannot.
"""

from __future__ import annotations

import gzip
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

from esper.errors import DataUnavailable
from esper.events.runs import DataFile
from esper.tasks.examples import Examples, Scale
from esper.tasks.files import dataset_cache, read_checked
from esper.tasks.task import Task

SYSTEM = Path("/usr/share/datasets/fashion-mnist")
FILES = {
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}
REMEDY = "install Debian's dataset-fashion-mnist, or run `make setup`, or train with --task digits"
_MEAN, _DEVIATION = 72.94, 90.02  # of the training pixels, 0 to 255
_GATE = 6000


def folder() -> Path:
    """Where the files are: the system's folder, else the cache; raises DataUnavailable."""
    for candidate in (SYSTEM, dataset_cache() / "fashion-mnist"):
        if all((candidate / name).exists() for name in FILES):
            return candidate
    raise DataUnavailable(f"Fashion-MNIST is neither in {SYSTEM} nor in {dataset_cache()}; {REMEDY}")


def task() -> Task:
    """The task with its data in memory; the gate examples are the last tenth of the training images."""
    place = folder()
    tensors: list[Tensor] = []
    files: list[DataFile] = []
    for name, sha256 in FILES.items():
        content, file = read_checked(place / name, sha256, REMEDY)
        tensors.append(_idx(gzip.decompress(content)))
        files.append(file)
    known = Examples(tensors[0].unsqueeze(1), tensors[1].long())
    return Task(
        name="fashion-mnist",
        files=tuple(files),
        train=known.part(slice(0, -_GATE)),
        gate=known.part(slice(-_GATE, None)),
        test=Examples(tensors[2].unsqueeze(1), tensors[3].long()),
        make_model=model,
        learning_rate=2e-3,
        batch_size=512,
        epochs=32,
        settings=(
            "gate.folds=4",
            "training.steps=600",
            "policy.warmup=100",
            "policy.budget=2",
            "verdict.alpha=0.1",
        ),
    )


def model() -> nn.Module:
    """The host, for uint8 inputs of shape [batch, 1, 28, 28]; linear from end to end."""
    layers = {
        "scale": Scale(_MEAN, _DEVIATION),
        "pool": nn.AvgPool2d(2),
        "flatten": nn.Flatten(),
        "mix": nn.Linear(14 * 14, 64),
        "out": nn.Linear(64, 10),
    }
    return nn.Sequential(OrderedDict(layers))


def _idx(content: bytes) -> Tensor:
    """The uint8 tensor of an idx file: two zero bytes, the type 8, the number of dimensions, their sizes, the data."""
    dimensions = content[3]
    header = 4 + 4 * dimensions
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, header, 4)]
    return torch.frombuffer(bytearray(content[header:]), dtype=torch.uint8).view(shape)
