"""Gate data: held-out examples in folds, on which verdicts are measured."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from esper.errors import LossShape, UsageError
from esper.kasmina.generators import preserved
from esper.kasmina.losses import EXAMPLE, Loss, per_example
from esper.kasmina.trace import without_trace

__all__ = ["GateData", "evaluate", "per_example"]


@dataclass(frozen=True)
class GateData:
    """Gate examples in memory, as the batches they came in. ``digest`` is SHA-256 over their structure and bytes."""

    batches: tuple[Any, ...]
    folds: int
    digest: str
    examples: int

    @classmethod
    def read(cls, iterable: Iterable[Any], folds: int, limit_mb: int) -> GateData:
        """Reads ``iterable`` once, in order, without a trace in the random generators.

        A batch is a tensor, or tuples, lists and dicts of tensors whose first dimension is the example.

        Raises:
            UsageError: for more than ``limit_mb`` megabytes, fewer than 2 examples per fold, or another kind of batch.
        """
        batches: list[Any] = []
        digest, examples, size = hashlib.sha256(), 0, 0
        with _undisturbed(iterable):
            for number, raw in enumerate(iterable):
                batch = _mapped(raw, lambda tensor: tensor.detach().clone(), f"gate batch {number}")
                leaves = list(_leaves(batch))
                examples += _count(leaves, number)
                size += sum(leaf.nbytes for leaf in leaves)
                if size > limit_mb * 1_000_000:
                    raise UsageError(
                        f"the gate data is larger than {limit_mb} MB; give fewer examples or raise gate.limit_mb"
                    )
                digest.update(_structure(batch).encode())
                for leaf in leaves:
                    digest.update(leaf.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
                batches.append(batch)
        if examples < 2 * folds:
            raise UsageError(
                f"the gate data has {examples} examples, {folds} folds need {2 * folds}; give more or lower gate.folds"
            )
        return cls(tuple(batches), folds, digest.hexdigest(), examples)

    def fold(self, k: int) -> list[Any]:
        """The examples whose index modulo ``folds`` is ``k``, in order, in batches of about the size they came in."""
        parts: list[Any] = []
        offset = 0
        for batch in self.batches:
            count = _length(batch)
            rows = torch.tensor(range((k - offset) % self.folds, count, self.folds), dtype=torch.int64)
            offset += count
            if len(rows):
                parts.append(_mapped(batch, partial(_rows, rows), "gate batch"))
        return _merged(parts, max(map(_length, self.batches)))


def evaluate(model: nn.Module, loss: Loss, batches: Sequence[Any]) -> Tensor:
    """The loss of every example in ``batches``, in eval mode: [n], float64, on the CPU. Leaves no trace in ``model``.

    Raises:
        LossShape: if ``loss`` does not give one number per example.
    """
    results: list[Tensor] = []
    with without_trace(model), torch.no_grad():
        model.eval()
        for batch in batches:
            losses = per_example(loss(model, batch))
            if len(losses) != _length(batch):
                raise LossShape(
                    f"loss(model, batch) returned {len(losses)} numbers for {_length(batch)} examples; {EXAMPLE}"
                )
            results.append(losses.double().cpu())
    return torch.cat(results)


def _rows(rows: Tensor, tensor: Tensor) -> Tensor:
    return tensor[rows.to(tensor.device)]


def _merged(parts: list[Any], limit: int) -> list[Any]:
    """Neighbours of equal structure joined, to at most ``limit`` examples."""
    merged: list[Any] = []
    group: list[Any] = []
    for part in parts:
        full = sum(map(_length, group)) + _length(part) > limit
        if group and (full or _structure(group[0], rows=False) != _structure(part, rows=False)):
            merged.append(_joined(group))
            group = []
        group.append(part)
    return [*merged, _joined(group)] if group else merged


def _joined(group: list[Any]) -> Any:
    columns = [iter(leaves) for leaves in zip(*(_leaves(part) for part in group), strict=True)]
    joined = iter([torch.cat(tuple(column)) for column in columns])
    return _mapped(group[0], lambda _: next(joined), "gate batch")


def _mapped(batch: Any, change: Callable[[Tensor], Tensor], where: str) -> Any:
    """``batch`` with every tensor changed, the nesting kept."""
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, dict):
        return {key: _mapped(value, change, f"{where}[{key!r}]") for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        values = [_mapped(value, change, f"{where}[{i}]") for i, value in enumerate(batch)]
        if isinstance(batch, list):
            return values
        return type(batch)(*values) if hasattr(batch, "_fields") else tuple(values)
    raise UsageError(f"{where} is a {type(batch).__name__}; gate batches are made of tensors")


def _leaves(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    else:
        for value in batch.values() if isinstance(batch, dict) else batch:
            yield from _leaves(value)


def _count(leaves: list[Tensor], number: int) -> int:
    if not leaves:
        raise UsageError(f"gate batch {number} holds no tensor; gate batches are made of tensors")
    lengths = {leaf.shape[0] if leaf.dim() else None for leaf in leaves}
    if len(lengths) != 1 or None in lengths:
        raise UsageError(
            f"the tensors of gate batch {number} do not share a first dimension; it must be the example in each"
        )
    return leaves[0].shape[0]


def _length(batch: Any) -> int:
    return next(_leaves(batch)).shape[0]


def _structure(batch: Any, rows: bool = True) -> str:
    """Nesting, dtypes and shapes as text; without the number of examples if not ``rows``."""
    if isinstance(batch, Tensor):
        return f"{batch.dtype}{list(batch.shape[0 if rows else 1 :])}"
    if isinstance(batch, dict):
        return "{" + ",".join(f"{key!r}:{_structure(value, rows)}" for key, value in batch.items()) + "}"
    return type(batch).__name__ + "(" + ",".join(_structure(value, rows) for value in batch) + ")"


@contextmanager
def _undisturbed(iterable: Iterable[Any]) -> Iterator[None]:
    """Restores the global generators and those of a DataLoader and its samplers, which training may share."""
    owners = [iterable, getattr(iterable, "sampler", None), getattr(iterable, "batch_sampler", None)]
    owners.append(getattr(owners[-1], "sampler", None))
    own = {id(g): g for owner in owners if isinstance(g := getattr(owner, "generator", None), torch.Generator)}
    with ExitStack() as stack:
        stack.enter_context(preserved())
        for generator in own.values():
            stack.callback(generator.set_state, generator.get_state())
        yield
