"""The place in the data: the batches after a resume are those that would have come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from esper.errors import DataMismatch, Unsupported
from esper.kasmina import generators
from esper.tolaria.model.cursor import Cursor
from esper.tolaria.model.tree import flatten, unflatten

DATA = TensorDataset(torch.arange(20.0))


@pytest.fixture(autouse=True)
def _undisturbed() -> Iterator[None]:
    with generators.preserved():
        yield


def own_generator() -> Iterable[Any]:
    return DataLoader(DATA, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(3))


def sampler_generator() -> Iterable[Any]:
    sampler = RandomSampler(DATA, generator=torch.Generator().manual_seed(3))
    return DataLoader(DATA, batch_size=4, sampler=sampler)


def global_generator() -> Iterable[Any]:
    return DataLoader(DATA, batch_size=4, shuffle=True)


LOADERS = [own_generator, sampler_generator, global_generator]


def copied(cursor: Cursor) -> dict[str, Any]:
    skeleton, tensors = flatten(cursor.tree())
    return unflatten(skeleton, {name: each.clone() for name, each in tensors.items()})


def train(cursor: Cursor, loader: Iterable[Any], epochs: int, seen: list[Any], stop: int = -1) -> None:
    cursor.enter_epochs()
    while cursor.epoch < epochs:
        for batch in iterate(cursor, loader):
            seen.append((cursor.epoch, batch[0].tolist(), float(torch.rand(()))))
            if len(seen) == stop:
                return
        cursor.next_epoch()
        if len(seen) == -stop:
            return


def iterate(cursor: Cursor, loader: Iterable[Any]) -> Iterator[Any]:
    for batch in cursor.open(loader):
        cursor.used(batch)
        yield batch


@pytest.mark.parametrize("make", LOADERS)
@pytest.mark.parametrize("stop", [1, 5, 7, 14, -5, -10])
def test_a_resumed_cursor_gives_the_batches_and_numbers_that_would_have_come(
    make: Callable[[], Iterable[Any]], stop: int
) -> None:
    """A negative ``stop`` is after an epoch's end."""
    torch.manual_seed(0)
    whole: list[Any] = []
    train(Cursor(), make(), 3, whole)
    torch.manual_seed(0)
    torn: list[Any] = []
    cursor = Cursor()
    train(cursor, make(), 3, torn, stop)
    tree = copied(cursor)
    torch.manual_seed(99)
    again = Cursor()
    again.load(tree)
    train(again, make(), 3, torn)
    assert torn == whole


def test_a_cursor_that_was_loaded_and_not_used_is_saved_as_it_was() -> None:
    cursor = Cursor()
    train(cursor, own_generator(), 3, [], 7)
    tree = copied(cursor)
    again = Cursor()
    again.load(tree)
    torch.rand(3)
    assert generators.same(copied(again), tree)


def test_persistent_workers_are_refused_with_the_reason() -> None:
    loader = DataLoader(DATA, num_workers=1, persistent_workers=True)
    with pytest.raises(Unsupported, match=r"persistent_workers.*cannot restore"):
        Cursor().open(loader)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda: DataLoader(DATA, batch_size=5, shuffle=True), "first batch"),
        (lambda: DataLoader(TensorDataset(torch.arange(20.0) + 1), batch_size=4, shuffle=True), "first batch"),
        (own_generator, "random generators"),
        (list, "has 0 batches, but 3 were used"),
        (lambda: list(DataLoader(TensorDataset(torch.arange(4.0)), batch_size=4)), "first batch"),
    ],
)
def test_a_loader_that_gives_other_data_is_refused(other: Callable[[], Iterable[Any]], words: str) -> None:
    cursor = Cursor()
    train(cursor, global_generator(), 3, [], 3)
    again = Cursor()
    again.load(copied(cursor))
    again.enter_epochs()
    with pytest.raises(DataMismatch, match=words):
        again.open(other())


def test_any_iterable_of_batches_will_do() -> None:
    batches = [[torch.tensor([float(n)])] for n in range(6)]
    whole: list[Any] = []
    torch.manual_seed(0)
    train(Cursor(), batches, 2, whole)
    torch.manual_seed(0)
    torn: list[Any] = []
    cursor = Cursor()
    train(cursor, batches, 2, torn, 8)
    again = Cursor()
    again.load(copied(cursor))
    train(again, batches, 2, torn)
    assert torn == whole
