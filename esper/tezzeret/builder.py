"""Builds kernels: a blueprint fitted to a site's module, with initial values."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from esper.errors import UsageError
from esper.events.assets import BlueprintRegistered
from esper.tezzeret.graph import DTYPES, Conv2dLayer, GeluLayer, Kernel, KernelGraph, LinearLayer
from esper.urza.blueprint import Conv2dNode, GeluNode, Initial, Kind, LinearNode, checked_definition
from esper.urza.fit import FittedNode, fit


def site_shape(module: nn.Module) -> tuple[Kind, tuple[int, ...]]:
    """Kind and dims of a site's module, as in a SiteTable; raises UsageError if it is neither Linear nor Conv2d."""
    if isinstance(module, nn.Linear):
        return "Linear", (module.in_features, module.out_features)
    if isinstance(module, nn.Conv2d):
        sizes = (module.in_channels, module.out_channels, *module.kernel_size, *module.stride)
        return "Conv2d", tuple(int(size) for size in sizes)
    raise UsageError(f"a {type(module).__name__} is no site; Linear and Conv2d are")


def build(blueprint: BlueprintRegistered, site_module: nn.Module, seed: int) -> Kernel:
    """The blueprint's kernel for ``site_module``, with its dtype and on its device, initialised from ``seed``.

    The same seed gives the same values on every device, and no generator but its own is touched.
    Raises UsageError saying why it does not fit.
    """
    kind, dims = site_shape(site_module)
    definition = checked_definition(blueprint)
    fitted = fit(definition, kind, dims)
    graph = KernelGraph(
        kind=kind,
        dtype=_dtype(site_module),
        layers=tuple(_layer(node, site_module) for node in fitted),
        output=definition.graphs[kind].output,
    )
    kernel = Kernel(graph, _weight(site_module).device)
    _initialise(kernel, fitted, torch.Generator("cpu").manual_seed(seed))
    return kernel


def _weight(site_module: nn.Module) -> Tensor:
    weight = site_module.weight
    assert isinstance(weight, Tensor)
    return weight


def _dtype(site_module: nn.Module) -> str:
    dtype = str(_weight(site_module).dtype)
    if dtype not in DTYPES:
        raise UsageError(f"the site's weight is {dtype}; kernels are made for {', '.join(DTYPES)}")
    return dtype


def _layer(fitted: FittedNode, site_module: nn.Module) -> LinearLayer | Conv2dLayer | GeluLayer:
    node = fitted.node
    if isinstance(node, GeluNode):
        return GeluLayer(name=node.name, input=node.input)
    sizes = {"in_size": fitted.in_size, "out_size": fitted.out_size}
    if isinstance(node, LinearNode):
        return LinearLayer(name=node.name, input=node.input, bias=node.bias is not None, **sizes)
    return Conv2dLayer.model_validate(
        {
            "name": node.name,
            "input": node.input,
            **sizes,
            "bias": node.bias is not None,
            "groups": fitted.groups,
            "kernel": fitted.kernel,
            **_geometry(node, site_module),
        }
    )


def _geometry(node: Conv2dNode, site_module: nn.Module) -> dict[str, object]:
    if node.geometry == "point":
        return {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "padding_mode": "zeros"}
    assert isinstance(site_module, nn.Conv2d)
    return {name: getattr(site_module, name) for name in ("stride", "padding", "dilation", "padding_mode")}


def _initialise(kernel: Kernel, fitted: tuple[FittedNode, ...], generator: torch.Generator) -> None:
    parameters = dict(kernel.named_parameters())
    with torch.no_grad():
        for each in fitted:
            if isinstance(each.node, GeluNode):
                continue
            fan_in = parameters[f"{each.node.name}.weight"][0].numel()
            _fill(parameters[f"{each.node.name}.weight"], each.node.weight, fan_in, generator)
            if each.node.bias is not None:
                _fill(parameters[f"{each.node.name}.bias"], each.node.bias, fan_in, generator)


def _fill(parameter: nn.Parameter, initial: Initial, fan_in: int, generator: torch.Generator) -> None:
    """Zeros, or He and others' uniform distribution, whose variance is 2 / fan_in."""
    if initial == "zeros":
        parameter.zero_()
        return
    bound = math.sqrt(6 / fan_in)
    values = torch.empty(parameter.shape, dtype=torch.float32, device="cpu")
    parameter.copy_(values.uniform_(-bound, bound, generator=generator))
