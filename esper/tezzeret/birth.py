"""A kernel's birth: built, examined, stored. What fails is rejected in words."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esper.artifacts.port import ArtifactStore
from esper.errors import UsageError
from esper.events.assets import BlueprintRegistered, KernelCompiled, KernelRejected
from esper.tezzeret.builder import build, site_shape
from esper.tezzeret.graph import Kernel
from esper.tezzeret.kernel import load_kernel, save_kernel


def compile_kernel(
    store: ArtifactStore,
    blueprint: BlueprintRegistered,
    site_module: nn.Module,
    kind: str,
    dims: tuple[int, ...],
    seed: int,
    sample_input: Tensor | None = None,
) -> tuple[KernelCompiled | KernelRejected, Kernel | None]:
    """Compile ``blueprint`` for a site, examine it (see ``examine``), store it and load it from the store.

    ``sample_input`` is an input that the site has seen; without one, random numbers serve. Returns the event's
    content and the kernel on the site's device, None if it was rejected. No random generator, parameter or ``.grad``
    is changed. Raises EsperError only if the store does not work.
    """
    began = time.perf_counter()
    try:
        if (kind, dims) != site_shape(site_module):
            raise UsageError(f"the site is {site_shape(site_module)}, not {(kind, dims)}")
        built = build(blueprint, site_module, seed)
        examine(built, site_module, sample_input)
    except (UsageError, RuntimeError, ValueError) as error:
        # torch reports shapes, devices and memory that do not fit as RuntimeError, geometry as ValueError.
        reason = " ".join(str(error).split())[:500]
        return KernelRejected(blueprint=blueprint.blueprint, kind=kind, dims=dims, seed=seed, reason=reason), None
    sha256, size = save_kernel(store, built)
    kernel = load_kernel(store, sha256, next(built.parameters()).device)
    compiled = KernelCompiled(
        blueprint=blueprint.blueprint,
        kernel=sha256,
        kind=kind,
        dims=dims,
        seed=seed,
        parameters=sum(parameter.numel() for parameter in built.parameters()),
        size=size,
        measured={"seconds": time.perf_counter() - began},
    )
    return compiled, kernel


def examine(kernel: Kernel, site_module: nn.Module, sample_input: Tensor | None = None) -> None:
    """Raise UsageError unless ``kernel`` may be born at ``site_module``.

    Its effect has the shape of the site's output, is exactly zero, and a finite gradient that is not zero reaches
    the weights that are zero; once those are not zero, one reaches every parameter.
    """
    weight = next(kernel.parameters())
    x = (_random_input(site_module) if sample_input is None else sample_input.detach()).to(weight)
    if not torch.isfinite(x).all():
        raise UsageError("the site's input is not finite")
    shape = _output_shape(site_module, x)
    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        effect = kernel(x)
        if effect.shape != shape:
            raise UsageError(f"its effect has shape {list(effect.shape)}, the site's output {list(shape)}")
        if effect.any():
            raise UsageError("its effect is not zero at birth")
        zeros = {name: each for name, each in kernel.named_parameters() if name.endswith(".weight") and not each.any()}
        _check_gradients(effect, zeros)

        grown = copy.deepcopy(kernel)
        with torch.no_grad():
            for name in zeros:
                grown_weight = grown.get_parameter(name)
                grown_weight.copy_(_random(grown_weight.shape, 1) * 0.1)
        _check_gradients(grown(x), dict(grown.named_parameters()))


def _check_gradients(effect: Tensor, parameters: Mapping[str, Tensor]) -> None:
    if not parameters:
        raise UsageError("none of its weights begins as zeros, so nothing makes its effect zero")
    direction = _random(effect.shape, 0).to(effect)
    gradients = torch.autograd.grad(effect, list(parameters.values()), direction, allow_unused=True)
    for name, gradient in zip(parameters, gradients, strict=True):
        if gradient is None or not torch.isfinite(gradient).all() or not gradient.any():
            raise UsageError(f"the gradient that reaches {name} is missing, zero or not finite")


def _random_input(site_module: nn.Module) -> Tensor:
    shape: tuple[int, ...]
    if isinstance(site_module, nn.Conv2d):
        # Large enough for the kernel to move once, and for padding that reflects.
        sides = tuple(
            dilation * (side - 1) + 1 + stride
            for side, stride, dilation in zip(
                site_module.kernel_size, site_module.stride, site_module.dilation, strict=True
            )
        )
        padding = (0, 0) if isinstance(site_module.padding, str) else site_module.padding
        shape = (2, site_module.in_channels, *(max(side, pad + 1) for side, pad in zip(sides, padding, strict=True)))
    else:
        assert isinstance(site_module, nn.Linear)
        shape = (2, site_module.in_features)
    return _random(shape, 2)


def _random(shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")


def _output_shape(site_module: nn.Module, x: Tensor) -> torch.Size:
    """The shape of the site's output for ``x``, without calling the site, whose hooks are not ours."""
    if not isinstance(site_module, nn.Conv2d):
        assert isinstance(site_module, nn.Linear)
        return torch.Size((*x.shape[:-1], site_module.out_features))
    return F.conv2d(
        torch.empty(x.shape, device="meta"),
        torch.empty(site_module.weight.shape, device="meta"),
        None,
        site_module.stride,
        site_module.padding,
        site_module.dilation,
        site_module.groups,
    ).shape
