"""The built-in tasks' examples: held as bytes (uint8) and handed out as whole batches; the model scales them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Examples:
    """``inputs`` uint8 [n, ...] and ``labels`` int64 [n]."""

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: Sequence[int] | slice) -> Batch:
        """The examples at ``indices`` as one batch; a DataLoader calls this in place of ``__getitem__``."""
        return self.inputs[indices], self.labels[indices]

    def part(self, indices: Sequence[int] | slice) -> Examples:
        """The examples at ``indices``: a view of these where it is a slice, else a copy."""
        return Examples(self.inputs[indices], self.labels[indices])


class Scale(nn.Module):
    """uint8 in, float32 ``(x - mean) / deviation`` out."""

    def __init__(self, mean: float, deviation: float) -> None:
        super().__init__()
        self.mean, self.deviation = mean, deviation

    def forward(self, x: Tensor) -> Tensor:
        """``(x - mean) / deviation`` as float32, of the shape of ``x``, which stays as it is."""
        return x.float().sub_(self.mean).div_(self.deviation)


@dataclass(frozen=True, slots=True)
class Batches:
    """``source`` in order, ``size`` examples at a time; the same each time it is iterated."""

    source: Examples
    size: int

    @property
    def examples(self) -> int:
        """How many examples there are in all batches."""
        return len(self.source)

    def __len__(self) -> int:
        return -(-len(self.source) // self.size)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.source), self.size):
            yield self.source.__getitems__(slice(start, start + self.size))
