"""Sites: the layers of any ``nn.Module`` after which a seed may grow."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized
from torch.optim import Optimizer

from esper.errors import UsageError
from esper.events.runs import SiteTable

SEED_PREFIX = "esper_seed_"
"""A fossilised seed is a submodule of its site under this name and its number."""


@dataclass(frozen=True)
class Site:
    """A layer with parameters of its own. ``dims`` is [in, out] for Linear, [in, out, kernel_h, kernel_w, stride_h,
    stride_w] for Conv2d, else empty; ``reason`` says why no seed may grow there, None if one may."""

    name: str
    kind: str
    dims: tuple[int, ...]
    reason: str | None
    module: nn.Module


def find_sites(model: nn.Module, wanted: Literal["auto"] | Sequence[str], optimizer: Optimizer) -> list[Site]:
    """The layers of ``model`` that have parameters of their own, in its order; only the ``wanted`` ones if named.

    Raises:
        UsageError: if a wanted layer does not exist or cannot hold a seed.
    """
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    owners = _owners(model)
    sites = [_site(name, module, trained, owners) for name, module in _layers(model)]
    if isinstance(wanted, str):
        if wanted != "auto":
            raise UsageError(f'sites={wanted!r} is neither "auto" nor a list of names; write sites=[{wanted!r}]')
        return sites
    for name in wanted:
        _check_wanted(name, model, sites)
    return [site for site in sites if site.name in set(wanted)]


@contextmanager
def call_counts(model: nn.Module, sites: Sequence[Site]) -> Iterator[dict[str, int]]:
    """Counts the forward calls of each supported site of ``model`` by name while inside."""
    counts = {site.name: 0 for site in sites if site.reason is None}
    handles = [site.module.register_forward_hook(_counter(counts, site.name)) for site in sites if site.name in counts]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def reason_from_calls(n: int) -> str | None:
    """Why a layer that was called ``n`` times in one pass cannot hold a seed; None if it can."""
    if n == 1:
        return None
    return f"called {n} times in one forward pass" if n else "never called in a forward pass"


def with_calls(sites: Sequence[Site], counts: Mapping[str, int]) -> list[Site]:
    """``sites`` with the reasons that the calls of the first step give."""
    return [
        replace(site, reason=reason_from_calls(counts[site.name])) if site.name in counts else site for site in sites
    ]


def with_reasons(sites: Sequence[Site], reasons: Sequence[str | None]) -> list[Site]:
    """``sites`` with these reasons, one for each."""
    return [replace(site, reason=reason) for site, reason in zip(sites, reasons, strict=True)]


def site_table(sites: Sequence[Site], costs: Mapping[str, Sequence[int]]) -> SiteTable:
    """``sites`` as parallel arrays. ``costs`` holds, for each blueprint, the parameters that it adds at each site, -1
    where it does not fit; it fits nowhere that is unsupported."""
    return SiteTable(
        names=tuple(site.name for site in sites),
        kinds=tuple(site.kind for site in sites),
        dims=tuple(site.dims for site in sites),
        reasons=tuple(site.reason for site in sites),
        blueprints=tuple(costs),
        costs=tuple(
            tuple(column[i] if site.reason is None else -1 for column in costs.values()) for i, site in enumerate(sites)
        ),
    )


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules with parameters of their own, without the insides of parametrised layers and fossilised seeds."""
    hidden: list[str] = []
    for name, module in model.named_modules():
        path = f"{name}."
        if any(path.startswith(prefix) for prefix in hidden):
            continue
        if name.rpartition(".")[2].startswith(SEED_PREFIX):
            hidden.append(path)
        elif is_parametrized(module):
            hidden.append(f"{path}parametrizations." if name else "parametrizations.")
            yield name, module
        elif any(parameter is not None for parameter in module._parameters.values()) or _quantised(module):
            yield name, module


def _owners(model: nn.Module) -> dict[int, list[str]]:
    """Names of all parameters, by identity; a shared one has several."""
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    return owners


def _site(name: str, module: nn.Module, trained: set[int], owners: Mapping[int, list[str]]) -> Site:
    reason = _reason(name, module, trained, owners)
    if isinstance(module, nn.Linear) and not _lazy(module):
        return Site(name, "Linear", (module.in_features, module.out_features), reason, module)
    if isinstance(module, nn.Conv2d) and not _lazy(module):
        dims = (module.in_channels, module.out_channels, *module.kernel_size, *module.stride)
        return Site(name, "Conv2d", dims, reason, module)
    return Site(name, type(module).__name__, (), reason, module)


def _reason(name: str, module: nn.Module, trained: set[int], owners: Mapping[int, list[str]]) -> str | None:
    kind = type(module).__name__
    if _quantised(module):
        return f"{kind} is quantised"
    if not isinstance(module, (nn.Linear, nn.Conv2d)):
        return f"{kind} is not Linear or Conv2d"
    if is_parametrized(module) or "weight" not in module._parameters:
        return "its weight is computed from other parameters"
    weight = module._parameters["weight"]
    if weight is None or _lazy(module):
        return "its shape is not known yet; run the model once first"
    if _own_forward(module):
        return f"{kind} has a forward of its own"
    if not weight.is_floating_point():
        return f"its weight is {weight.dtype}"
    if others := _other_owners(name, owners[id(weight)]):
        return f"its weight is shared with {', '.join(others)}"
    if not weight.requires_grad:
        return "its weight is frozen"
    return None if id(weight) in trained else "its weight is not in the optimizer"


def _other_owners(name: str, names: Sequence[str]) -> list[str]:
    own = f"{name}.weight" if name else "weight"
    return [other for other in names if other != own]


def _own_forward(module: nn.Linear | nn.Conv2d) -> bool:
    if "forward" in vars(module):
        return True
    if isinstance(module, nn.Linear):
        return type(module).forward is not nn.Linear.forward
    return type(module).forward is not nn.Conv2d.forward or type(module)._conv_forward is not nn.Conv2d._conv_forward


def _lazy(module: nn.Module) -> bool:
    weight = module._parameters.get("weight")
    return weight is not None and is_lazy(weight)


def _quantised(module: nn.Module) -> bool:
    return ".quantized." in f"{type(module).__module__}." and hasattr(module, "weight")


def _counter(counts: dict[str, int], name: str) -> Callable[..., None]:
    def count(*_: object) -> None:
        counts[name] += 1

    return count


def _check_wanted(name: str, model: nn.Module, sites: Sequence[Site]) -> None:
    site = next((site for site in sites if site.name == name), None)
    if site is not None:
        if site.reason is not None:
            raise UsageError(f"site {name!r} cannot hold a seed: {site.reason}")
        return
    modules = dict(model.named_modules())
    if name in modules:
        raise UsageError(f"site {name!r} cannot hold a seed: {type(modules[name]).__name__} is not Linear or Conv2d")
    close = difflib.get_close_matches(name, [s.name for s in sites if s.reason is None], n=1)
    hint = f"did you mean {close[0]!r}?" if close else 'sites="auto" finds them'
    raise UsageError(f"the model has no layer {name!r}; {hint}")
