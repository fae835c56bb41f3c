"""The one place where alpha is applied: a forward hook that adds a kernel's effect to its site's output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from esper.errors import Unsupported


def full() -> float:
    """Alpha of a seed that is held or fossilised, and of every isolated pass."""
    return 1.0


class Effect:
    """A forward hook: y + alpha * kernel(x). A class, so that a copied or saved model takes its own kernel along.

    ``detached`` cuts the host off: gradients reach the kernel alone.
    """

    def __init__(self, kernel: nn.Module, alpha: Callable[[], float] = full, detached: bool = False) -> None:
        self.kernel, self.alpha, self.detached = kernel, alpha, detached
        self.enabled = True

    def __call__(self, site: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor) -> Tensor | None:
        if not self.enabled:
            return None
        x: Tensor = args[0] if args else kwargs["input"]
        if self.detached:
            x, y = x.detach(), y.detach()
        if self.kernel.training != site.training:
            self.kernel.train(site.training)
        effect: Tensor = self.kernel(x).to(y.dtype)
        if effect.shape != y.shape:
            raise Unsupported(f"the kernel gives {tuple(effect.shape)} where its site gives {tuple(y.shape)}")
        alpha = self.alpha()
        return y + effect if alpha == 1.0 else y + alpha * effect


def kernels_of(modules: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """The kernels that hooks add to ``modules``, fossilised ones included."""
    for module in modules:
        for hook in module._forward_hooks.values():
            if isinstance(hook, Effect):
                yield hook.kernel
