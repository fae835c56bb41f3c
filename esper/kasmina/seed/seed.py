"""A seed in a model: its kernel, its optimiser, and the hook that adds its effect to the host."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from esper.kasmina.effect import Effect, attach, full, is_ours, kernels_of
from esper.kasmina.seed.optimizers import group_of, make_like, sync
from esper.kasmina.seed.stages import Stage
from esper.kasmina.sites import SEED_PREFIX, Site
from esper.kasmina.span import Span

__all__ = ["SEED_PREFIX", "LiveSeed", "clip"]


class LiveSeed:
    """A seed ``site#n`` at ``site``. ``failed`` is set when its own loss or gradient is not finite.

    In GERMINATED and TRAINING nothing is attached to the host. The site's modules stay the same objects.
    """

    def __init__(
        self,
        name: str,
        site: Site,
        kernel: nn.Module,
        host_optimizer: Optimizer,
        stage: Stage = Stage.GERMINATED,
    ) -> None:
        self.name, self.site = name, site
        self.kernel = kernel.to(device=site.anchor.device, dtype=site.anchor.dtype)
        self.stage, self.failed = stage, False
        self._effect: Effect | None = None
        self._handles: list[RemovableHandle] = []
        self.optimizer = make_like(host_optimizer, group_of(host_optimizer, site.anchor), kernel.parameters())

    @property
    def span(self) -> Span:
        """The part of the host beside which the kernel runs."""
        return self.site.span

    @property
    def submodule(self) -> str:
        """The name of the fossilised seed in its site's module."""
        return SEED_PREFIX + self.name.rpartition("#")[2]

    def attach(self, alpha: Callable[[], float]) -> None:
        """Adds alpha() times the effect to the site's output from the next forward on."""
        if self._effect is None:
            self._effect = Effect(self.kernel, alpha)
            self._handles = attach(self._effect, self.span)
        self._effect.alpha = alpha

    def fossilise(self) -> None:
        """Makes the kernel a part of the model, in its ``state_dict``, at full effect for ever."""
        self.attach(full)
        self.span.exit.add_module(self.submodule, self.kernel)

    def detach(self) -> None:
        """Takes the seed out of the host: no hook and no submodule is left."""
        for handle in self._handles:
            handle.remove()
        self._effect, self._handles = None, []
        if self.submodule in self.span.exit._modules:
            delattr(self.span.exit, self.submodule)

    @contextmanager
    def off(self) -> Iterator[None]:
        """The host without the seed's effect, to log what switching it off would do."""
        if self._effect is None:
            raise ValueError(f"seed {self.name} is not attached")
        self._effect.enabled = False
        try:
            yield
        finally:
            self._effect.enabled = True

    def learn(
        self,
        host_optimizer: Optimizer,
        factor: float,
        clip_norm: float | None,
        gradients: Sequence[Tensor] | None = None,
    ) -> float | None:
        """One update at ``factor`` times the host's learning rate; the gradient's norm before clipping.

        ``gradients`` are those of the isolated pass; without them the kernel learns from what the host's backward
        left in ``.grad``. If the norm is not finite nothing moves, the seed has failed, and the answer is None.
        """
        parameters = [parameter for parameter in self.kernel.parameters() if parameter.requires_grad]
        if gradients is not None:
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
        norm = clip(parameters, clip_norm)
        if norm is None:
            self.failed = True
        else:
            sync(self.optimizer, group_of(host_optimizer, self.site.anchor), factor)
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm


def holds_seeds(model: nn.Module) -> bool:
    """Whether a run has left seeds in ``model``."""
    return any(
        any(is_ours(hook) for hook in module._forward_hooks.values())
        or any(name.startswith(SEED_PREFIX) for name in module._modules)
        for module in model.modules()
    )


def holds_live_seeds(model: nn.Module) -> bool:
    """Whether a run's seed has an effect on ``model`` without being a part of it."""
    parts = {id(each) for each in model.modules()}
    return any(id(kernel) not in parts for kernel in kernels_of(model.modules()))


def strip(model: nn.Module) -> None:
    """Takes every seed out of ``model``: a run that is resumed puts back those of its checkpoint."""
    for module in list(model.modules()):
        for key in [key for key, hook in module._forward_hooks.items() if is_ours(hook)]:
            del module._forward_hooks[key]
            module._forward_hooks_with_kwargs.pop(key, None)
            module._forward_hooks_always_called.pop(key, None)
        for key in [key for key, hook in module._forward_pre_hooks.items() if is_ours(hook)]:
            del module._forward_pre_hooks[key]
            module._forward_pre_hooks_with_kwargs.pop(key, None)
        for name in [name for name in module._modules if name.startswith(SEED_PREFIX)]:
            delattr(module, name)


def clip(parameters: Sequence[nn.Parameter], clip_norm: float | None) -> float | None:
    """Scales the gradients of ``parameters`` down to ``clip_norm`` in all; their norm before, None if not finite."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    total = torch.nn.utils.get_total_norm(gradients)
    norm = float(total)
    if not math.isfinite(norm):
        return None
    if clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, clip_norm, total)
    return norm
