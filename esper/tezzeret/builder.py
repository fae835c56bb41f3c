"""Builds kernels: a blueprint fitted to what a request says of a site, with initial values. No model is needed."""

from __future__ import annotations

import torch

from esper.errors import UsageError
from esper.events.assets import BlueprintRegistered, KernelRequested
from esper.kasmina.kinds import KINDS, Geometry
from esper.tezzeret.graph import DTYPES, KernelGraph
from esper.tezzeret.module import Kernel
from esper.urza.blueprint import checked_definition
from esper.urza.fit import fit


def build(blueprint: BlueprintRegistered, request: KernelRequested, device: torch.device | str = "cpu") -> Kernel:
    """The kernel that ``request`` asks for, on ``device``.

    The same request gives the same values on every device, and no generator but its own is touched.
    Raises UsageError saying why it does not fit, and for a request that does not say enough.
    """
    check_request(request)
    geometry = geometry_of(request)
    if request.dtype not in DTYPES:
        raise UsageError(f"the site's weight is {request.dtype}; kernels are made for {', '.join(DTYPES)}")
    definition = checked_definition(blueprint)
    fitted = fit(definition, request.kind, request.dims, geometry)
    graph = KernelGraph(
        kind=request.kind,
        dtype=request.dtype,
        layers=tuple(each.layer for each in fitted),
        output=definition.graphs[request.kind].output,
    )
    kernel = Kernel(graph, device)
    generator = torch.Generator("cpu").manual_seed(request.seed)
    with torch.no_grad():
        for each in fitted:
            each.node.initialise(kernel.get_submodule(each.node.name), generator)
    return kernel


def check_request(request: KernelRequested) -> None:
    """Raise UsageError unless ``request`` says all that a kernel depends on."""
    if request.geometry is None or request.dtype is None:
        raise UsageError(
            f"the request for {request.blueprint} says no geometry and dtype, for an older version wrote it; compile "
            "it beside the model, with the request of its Site"
        )


def geometry_of(request: KernelRequested) -> Geometry:
    """The geometry that ``request`` says; raises ValueError for one that its kind cannot have."""
    return KINDS[request.kind].geometry.model_validate_json(request.geometry or "")
