"""Compiles a blueprint for a site: the kernel is built, examined and stored, or rejected with the reason in words."""

from __future__ import annotations

import copy
import hashlib
import logging
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from esper.artifacts.port import ArtifactStore
from esper.errors import CorruptArtifact, UsageError
from esper.events.assets import BlueprintRegistered, KernelCompiled, KernelRejected, KernelRequested
from esper.kasmina.kinds import KINDS
from esper.tezzeret.builder import build, check_request, geometry_of
from esper.tezzeret.kernel import kernel_bytes, kernel_key, load_kernel, save_kernel
from esper.tezzeret.module import Kernel

logger = logging.getLogger("esper")
_ASKED = ("blueprint", "kind", "dims", "seed", "geometry", "dtype")
"""What a request says, and the events that answer it repeat."""


def compile_kernel(
    store: ArtifactStore,
    blueprint: BlueprintRegistered,
    request: KernelRequested,
    device: torch.device | str = "cpu",
    sample_input: Tensor | None = None,
) -> tuple[KernelCompiled | KernelRejected, Kernel | None]:
    """Compile ``blueprint`` as ``request`` says, examine it (see ``examine``), store it and load it from the store.

    ``sample_input`` is an input that the site has seen; without one, random numbers serve. Returns the event's
    content and the kernel on ``device``, None if it was rejected. No random generator is touched.
    Raises UsageError for a request that is not for ``blueprint`` or that an older version wrote without geometry and
    dtype, EsperError if the store does not work.
    """
    began = time.perf_counter()
    asked = {name: getattr(request, name) for name in _ASKED}
    if request.blueprint != blueprint.blueprint:
        raise UsageError(f"the request is for {request.blueprint}, not for {blueprint.blueprint}")
    check_request(request)
    try:
        built = build(blueprint, request, device)
        examine(built, request, sample_input)
    except (UsageError, RuntimeError, ValueError) as error:
        # torch reports shapes, devices and memory that do not fit as RuntimeError, geometry as ValueError.
        reason = " ".join(str(error).split())[:500]
        return KernelRejected(**asked, reason=reason), None
    sha256, size = save_kernel(store, built)
    kernel = load_kernel(store, sha256, device)
    compiled = KernelCompiled(
        **asked,
        kernel=sha256,
        parameters=sum(parameter.numel() for parameter in built.parameters()),
        size=size,
        measured={"seconds": time.perf_counter() - began},
    )
    return compiled, kernel


def remade(
    store: ArtifactStore,
    compiled: KernelCompiled,
    blueprint: BlueprintRegistered,
    damage: CorruptArtifact,
    device: torch.device | str = "cpu",
    *,
    newborn: bool = True,
) -> Kernel:
    """The kernel of ``compiled`` on ``device``, compiled again and stored in place of the file that has ``damage``.

    That may give other bits, for torch draws other random numbers on another CPU capability: CorruptArtifact is raised
    for a ``newborn``, and nothing is stored for another, whose tensors are not the initial ones any more.
    """
    request = KernelRequested(**{name: getattr(compiled, name) for name in _ASKED})
    kernel = build(blueprint, request)
    data = kernel_bytes(kernel)
    again = hashlib.sha256(data).hexdigest()
    if again != compiled.kernel and not newborn:
        logger.warning("%s; its graph is compiled again, its tensors are in the checkpoint", damage)
        return kernel.to(device)
    if again != compiled.kernel:
        capability = torch.backends.cpu.get_cpu_capability()
        raise CorruptArtifact(
            f"{damage}; compiled again on this CPU ({capability}) it is {again[:12]}…, with other initial values"
        ) from damage
    logger.warning("%s; it was compiled again, with the same digest", damage)
    store.put(kernel_key(compiled.kernel), data)
    return load_kernel(store, compiled.kernel, device)


def examine(kernel: Kernel, request: KernelRequested, sample_input: Tensor | None = None) -> None:
    """Raise UsageError unless ``kernel`` may be born at the site of ``request``.

    Its effect has the shape of the site's output, is exactly zero, and a finite gradient that is not zero reaches
    the weights that are zero; once those are not zero, one reaches every parameter.
    """
    kind, geometry = KINDS[request.kind], geometry_of(request)
    weight = next(kernel.parameters())
    sample = _random(kind.sample(request.dims, geometry), 2) if sample_input is None else sample_input.detach()
    x = sample.to(weight)
    if not torch.isfinite(x).all():
        raise UsageError("the site's input is not finite")
    shape = kind.output(tuple(x.shape), request.dims, geometry)
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


def _random(shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
