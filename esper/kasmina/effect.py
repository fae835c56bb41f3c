"""The forward hook that adds a seed's effect to the output of its site, times alpha, which is applied nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from esper.errors import Unsupported
from esper.kasmina.span import Passage, Span, input_of


def full() -> float:
    """Alpha of a seed that is held or fossilised, and of every isolated pass."""
    return 1.0


class Effect:
    """A forward hook: y + alpha * kernel(x). A class, so that a copied or saved model takes its own kernel along.

    ``detached`` cuts the host off: gradients reach the kernel alone. ``passage`` brings x where it is not the input
    of the module that gives y.
    """

    def __init__(self, kernel: nn.Module, alpha: Callable[[], float] = full, detached: bool = False) -> None:
        self.kernel, self.alpha, self.detached = kernel, alpha, detached
        self.passage: Passage | None = None
        self.enabled = True

    def __call__(self, site: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor) -> Tensor | None:
        """``y`` with the effect added, as torch's forward hooks are called; None, which keeps ``y``, while not
        ``enabled``. Raises Unsupported if the effect's shape is not that of ``y``."""
        x = input_of(site, args, kwargs) if self.passage is None else self.passage.leave(site)
        if not self.enabled:
            return None
        if self.detached:
            x, y = x.detach(), y.detach()
        if self.kernel.training != site.training:
            self.kernel.train(site.training)
        effect: Tensor = self.kernel(x).to(y.dtype)
        if effect.shape != y.shape:
            raise Unsupported(f"the kernel gives {tuple(effect.shape)} where its site gives {tuple(y.shape)}")
        alpha = self.alpha()
        return y + effect if alpha == 1.0 else y + alpha * effect


def attach(effect: Effect, span: Span, learning: bool = False) -> list[RemovableHandle]:
    """Adds ``effect`` to the output of ``span`` from the next forward on, until the handles are removed. ``learning``
    says that a forward without gradients would be of no use."""
    if span.entry is span.exit:
        return [span.exit.register_forward_hook(effect, with_kwargs=True)]
    passage = effect.passage = Passage(learning)
    return [
        span.within.register_forward_pre_hook(passage.begin),
        span.entry.register_forward_pre_hook(passage.enter, with_kwargs=True),
        span.exit.register_forward_hook(effect, with_kwargs=True),
        span.within.register_forward_hook(passage.end, always_call=True),
    ]


def kernels_of(modules: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """The kernels that hooks add to ``modules``, fossilised ones included."""
    for module in modules:
        for hook in module._forward_hooks.values():
            if isinstance(hook, Effect):
                yield hook.kernel


def is_ours(hook: object) -> bool:
    """Whether a module's hook belongs to a seed."""
    return isinstance(hook, Effect) or isinstance(getattr(hook, "__self__", None), Passage)
