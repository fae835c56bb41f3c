"""What a built-in task is: data, a model, and how it is trained, judged and measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader

from esper.events.runs import DataFile
from esper.tasks.examples import Batch, Batches, Examples

_AT_ONCE = 1000  # examples in a batch that is not trained on


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A built-in task. ``settings`` are assignments as after ``--set``; ``files`` had the expected SHA-256."""

    name: str
    files: tuple[DataFile, ...]
    train: Examples
    gate: Examples
    test: Examples
    make_model: Callable[[], nn.Module]
    learning_rate: float
    batch_size: int
    epochs: int
    settings: tuple[str, ...] = ()
    threads: int = 1  # nets this small are slower on several

    def model(self, seed: int) -> nn.Module:
        """A new host, its weights drawn from ``seed``; sets torch's global generator and number of threads."""
        torch.set_num_threads(self.threads)
        torch.manual_seed(seed)
        return self.make_model()

    def train_loader(self, seed: int) -> DataLoader[Batch]:
        """The training examples, shuffled anew each epoch by a generator of the loader's own."""
        return DataLoader(
            self.train,  # type: ignore[arg-type]  # its __getitems__ gives whole batches
            batch_size=self.batch_size,
            shuffle=True,
            drop_last=True,
            collate_fn=_as_it_is,  # type: ignore[arg-type]
            generator=torch.Generator().manual_seed(seed),
        )

    def gate_loader(self) -> Batches:
        """The held-out examples that judge seeds, always the same batches."""
        return Batches(self.gate, _AT_ONCE)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the training examples; the rest is left out of an epoch."""
        return len(self.train) // self.batch_size

    def optimizer(self, model: nn.Module) -> Optimizer:
        """AdamW over all parameters of ``model`` at the task's learning rate."""
        return AdamW(model.parameters(), lr=self.learning_rate)

    def scheduler(self, optimizer: Optimizer, steps: int) -> CosineAnnealingLR:
        """The learning rate falls to nothing over ``steps``."""
        return CosineAnnealingLR(optimizer, T_max=steps)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Accuracy on the test examples, which no decision reads."""
        return {"accuracy": accuracy(model, Batches(self.test, _AT_ONCE))}


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Cross entropy per example, shape [batch]."""
    inputs, labels = batch
    return F.cross_entropy(model(inputs), labels, reduction="none")


@torch.no_grad()
def accuracy(model: nn.Module, batches: Batches) -> float:
    """Share of examples whose label the model finds; modes are left as they were, no randomness is used."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        right = sum(int((model(inputs).argmax(1) == labels).sum()) for inputs, labels in batches)
    finally:
        for module, training in modes:
            module.training = training
    return right / batches.examples


def _as_it_is(batch: Batch) -> Batch:
    """What Examples gives is a batch already."""
    return batch
