"""Isolated training: a kernel learns from the task's loss, while the host trains as if there were no kernel."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from esper.kasmina import generators
from esper.kasmina.effect import Effect, attach
from esper.kasmina.gate import evaluate
from esper.kasmina.losses import Loss, per_example
from esper.kasmina.span import Span
from esper.kasmina.trace import without_trace

__all__ = ["gate_losses", "isolated", "isolated_gradients", "without_trace"]


@contextmanager
def isolated(span: Span, kernel: nn.Module, grad: bool) -> Iterator[None]:
    """While inside, the span gives y.detach() + kernel(x.detach()): alpha 1, gradients for the kernel alone.

    ``grad`` says whether gradients are recorded at all.
    """
    handles = attach(Effect(kernel, detached=True), span, learning=grad)
    try:
        with torch.set_grad_enabled(grad):
            yield
    finally:
        for handle in handles:
            handle.remove()


def isolated_gradients(
    model: nn.Module,
    loss: Loss,
    batch: Any,
    span: Span,
    kernel: nn.Module,
    generator_state_before: Mapping[str, Any],
) -> tuple[float, list[Tensor] | None]:
    """The isolated pass, after the host's backward: the mean loss at alpha 1 and its gradients.

    ``loss`` sees the random generators as they were before the host's own call; afterwards generators, buffers and
    modes are as they are now, and no ``.grad`` was touched. The gradients, one for each parameter of ``kernel`` that
    learns, in order, are None if the loss is not finite. The kernel's own buffers move: they are the seed's.
    """
    parameters = [parameter for parameter in kernel.parameters() if parameter.requires_grad]
    with without_trace(model), isolated(span, kernel, grad=True):
        generators.restore(generator_state_before)
        mean = per_example(loss(model, batch)).mean()
        value = float(mean.detach())
        if not math.isfinite(value):
            return value, None
        if not mean.requires_grad:  # the site's output does not reach the loss
            return value, [torch.zeros_like(parameter) for parameter in parameters]
        gradients = torch.autograd.grad(mean, parameters, allow_unused=True, materialize_grads=True)
    return value, list(gradients)


def gate_losses(
    model: nn.Module, loss: Loss, batches: Sequence[Any], span: Span, kernel: nn.Module
) -> tuple[Tensor, Tensor]:
    """loss(alpha = 0) and loss(alpha = 1) of every gate example, each [n] float64 on the CPU; leaves no trace."""
    without = evaluate(model, loss, batches)
    with isolated(span, kernel, grad=False):
        return without, evaluate(model, loss, batches)
