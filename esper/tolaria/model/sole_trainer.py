"""Notices a second loop that trains the model: each update would count twice, and no log would say so."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from esper.errors import UsageError

Left = tuple[weakref.ref[Tensor], int] | None


class SoleTrainer:
    """Watches the host's optimiser, and the gradient of one of its parameters: honest programs leave what a step has
    left there as it is, or clear it; a backward of theirs changes it."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._mine, self._others, self._begun = False, False, False
        self._left: Left = None
        handle = optimizer.register_step_post_hook(self._stepped)
        self.close = weakref.finalize(self, handle.remove)

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """The optimiser steps on the run's behalf."""
        self._mine = True
        try:
            yield
        finally:
            self._mine = False

    def note(self) -> None:
        """A step is done: its gradients are what has to be found at the next."""
        gradient, self._begun = self._gradient(), True
        self._left = None if gradient is None else (weakref.ref(gradient), gradient._version)

    def check(self) -> None:
        """Raise UsageError if the optimiser has stepped, or a gradient has come, since ``note``."""
        if self._others:
            raise UsageError(
                "the optimiser was stepped outside of run.step, which steps it by itself: leave optimizer.step() out, "
                "and do not run Esper inside another trainer's loop"
            )
        gradient = self._gradient() if self._begun else None  # what was there before the first step is cleared
        if gradient is not None and not self._is_left(gradient):
            raise UsageError(
                "there are gradients that run.step did not compute: leave loss.backward() out, which it calls by "
                "itself (clip_norm= clips), or clear them with optimizer.zero_grad()"
            )

    def _is_left(self, gradient: Tensor) -> bool:
        """Whether it is what the last step has left, unchanged."""
        return self._left is not None and self._left[0]() is gradient and self._left[1] == gradient._version

    def _gradient(self) -> Tensor | None:
        """Of the first parameter that has one."""
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    found: Tensor = parameter.grad
                    return found
        return None

    def _stepped(self, *_: Any) -> None:
        self._others = self._others or not self._mine
