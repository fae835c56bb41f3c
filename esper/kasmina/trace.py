"""Passes through the host after which it is bit for bit as before: buffers, modes and random generators are put
back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from esper.kasmina.effect import kernels_of
from esper.kasmina.generators import preserved


@contextmanager
def without_trace(model: nn.Module) -> Iterator[None]:
    """Restores bit for bit what passes through ``model`` may change: random generators, buffers and train/eval modes,
    of the host and of the kernels that seeds add to it."""
    host = list(model.modules())
    modules = list(dict.fromkeys([*host, *(part for kernel in kernels_of(host) for part in kernel.modules())]))
    modes = [module.training for module in modules]
    owners = [(module, dict(module._buffers)) for module in modules if module._buffers]
    buffers = list({id(b): b for _, named in owners for b in named.values() if b is not None}.values())
    with torch.no_grad():
        copies = [buffer.clone() for buffer in buffers]
    with preserved():
        try:
            yield
        finally:
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode
            for module, named in owners:
                module._buffers.clear()
                module._buffers.update(named)
            _copy_back(buffers, copies)


def _copy_back(buffers: list[Tensor], copies: list[Tensor]) -> None:
    with torch.no_grad():
        for buffer, copy in zip(buffers, copies, strict=True):
            if not expanded(buffer):  # torch does not write to one either
                buffer.copy_(copy)


def expanded(tensor: Tensor) -> bool:
    """Whether several elements of ``tensor`` are one in memory."""
    return any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))
