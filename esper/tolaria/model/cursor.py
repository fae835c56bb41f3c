"""Where a run is in its data, and how to get there again.

Restoring the current generators is not enough: shuffling is drawn when the loader's iterator is made. So the
generators of the process, the loader and its sampler are kept as they were at the epoch's start as well: a resume
sets those, skips the batches already used, then sets those of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from esper.errors import DataMismatch, Unsupported
from esper.kasmina import generators
from esper.tolaria.model.digest import batch_digest


class Cursor:
    """Epoch, batches used in it, and the generators; ``tree`` and ``load`` carry it through a checkpoint."""

    def __init__(self) -> None:
        self.epoch = 0
        self.batch = 0
        self.first_data = ""
        self._at_start: Any = None  # generators at the epoch's start; None between epochs
        self._loader_at_start: list[torch.Tensor] = []
        self._loader: list[torch.Generator] = []
        self._resume: tuple[Any, list[torch.Tensor]] | None = None  # generators of the checkpoint, not yet set
        self._next_loader: list[torch.Tensor] | None = None  # the loader's, for the epoch that begins after a resume

    @property
    def in_epoch(self) -> bool:
        """Whether an epoch's batches are being used: one has been opened and not ended."""
        return self._at_start is not None

    @property
    def begins_anew(self) -> bool:
        """Whether the loop left an epoch early, so that ``open`` begins it again."""
        return self.in_epoch and self._resume is None

    @property
    def returning(self) -> bool:
        """Whether a resumed program has not come back yet to where it was: it does again what came before."""
        return self._resume is not None

    def tree(self) -> dict[str, Any]:
        """The cursor as a state tree."""
        now, loader_now = self._resume or (generators.capture(), self._loader_now())
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "first_data": self.first_data,
            "at_start": self._at_start,
            "loader_at_start": self._loader_at_start,
            "now": now,
            "loader_now": loader_now,
        }

    def _loader_now(self) -> list[torch.Tensor]:
        return [each.get_state() for each in self._loader] if self._next_loader is None else self._next_loader

    def load(self, tree: dict[str, Any]) -> None:
        """Take up the place that ``tree`` describes; generators are set now and again by the loop."""
        self.epoch, self.batch, self.first_data = tree["epoch"], tree["batch"], tree["first_data"]
        self._at_start, self._loader_at_start = tree["at_start"], tree["loader_at_start"]
        self._resume = (tree["now"], tree["loader_now"])
        generators.restore(tree["now"])

    def enter_epochs(self) -> None:
        """The loop of epochs begins. Before the first epoch, what the program drew since ``start`` stands."""
        if self._resume is not None and not self.in_epoch:
            if self.epoch > 0:
                generators.restore(self._resume[0])
                self._next_loader = self._resume[1]
            self._resume = None

    def next_epoch(self) -> None:
        """The epoch is over: the next one has used no batch."""
        self.epoch += 1
        self.batch = 0
        self._at_start, self._loader_at_start = None, []  # the loader's generators go on into the next epoch

    def open(self, loader: Iterable[Any]) -> Iterator[Any]:
        """An iterator over ``loader`` that goes on where the cursor is; raises DataMismatch, Unsupported."""
        if getattr(loader, "persistent_workers", False):
            raise Unsupported(
                "persistent_workers=True keeps random state in worker processes, which a resume cannot restore; "
                "make the loader without it"
            )
        self._loader = _generators_of(loader)
        if self._next_loader is not None:
            self._check(self._next_loader)
            _set_all(self._loader, self._next_loader)
            self._next_loader = None
        if self._resume is None:
            self.batch, self.first_data = 0, ""
            self._at_start = generators.capture()
            self._loader_at_start = [each.get_state() for each in self._loader]
            return iter(loader)
        (now, loader_now), self._resume = self._resume, None
        self._check(loader_now)
        generators.restore(self._at_start)
        _set_all(self._loader, self._loader_at_start)
        iterator = iter(loader)
        self._skip(iterator)
        generators.restore(now)
        _set_all(self._loader, loader_now)
        return iterator

    def _check(self, states: list[torch.Tensor]) -> None:
        if len(self._loader) != len(states):
            raise DataMismatch(
                f"the loader has {len(self._loader)} random generators of its own, {len(states)} when the run was "
                "checkpointed; give the same loader"
            )

    def _skip(self, iterator: Iterator[Any]) -> None:
        for index in range(self.batch):
            try:
                batch = next(iterator)
            except StopIteration:
                raise DataMismatch(
                    f"epoch {self.epoch} has {index} batches, but {self.batch} were used before; give the same loader"
                ) from None
            if index == 0 and batch_digest(batch) != self.first_data:
                raise DataMismatch(
                    f"the first batch of epoch {self.epoch} is not what it was; give the same data and seeds"
                )

    def used(self, batch: Any) -> None:
        """``batch`` is handed to the loop."""
        if self.batch == 0:
            self.first_data = batch_digest(batch)
        self.batch += 1


def _generators_of(loader: Any) -> list[torch.Generator]:
    batch_sampler = getattr(loader, "batch_sampler", None)
    owners = (loader, getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None))
    found: list[torch.Generator] = []
    for owner in owners:
        generator = getattr(owner, "generator", None)
        if isinstance(generator, torch.Generator) and all(generator is not each for each in found):
            found.append(generator)
    return found


def _set_all(targets: list[torch.Generator], states: list[torch.Tensor]) -> None:
    for target, state in zip(targets, states, strict=True):
        target.set_state(state)
