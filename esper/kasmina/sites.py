"""Sites: the layers of any ``nn.Module`` after which a seed may grow."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized
from torch.optim import Optimizer

from esper.errors import ModelMismatch, UsageError
from esper.events.assets import KernelRequested
from esper.events.encoding.codec import canonical_json
from esper.events.runs import SiteTable
from esper.kasmina.kinds import KINDS, Kind, kind_of
from esper.kasmina.span import Span

SEED_PREFIX = "esper_seed_"
"""A fossilised seed is a submodule of its site under this name and its number."""


@dataclass(frozen=True, eq=False)
class Site:
    """A place where a seed may grow, or a layer where none may: ``reason`` says why, None if one may.

    ``dims`` are its kind's, empty for a layer of no kind; ``geometry`` is the canonical JSON of what else its kind says
    that kernels depend on. ``parameter`` is the one whose device, dtype and learning-rate group a seed takes: the
    site's weight, or for a site without one the trained parameter before it in the model, for neighbours are mostly
    trained alike.
    """

    name: str
    kind: str
    dims: tuple[int, ...]
    reason: str | None
    span: Span
    geometry: str | None = None
    parameter: nn.Parameter | None = None

    @property
    def weight(self) -> nn.Parameter | None:
        """The parameter ``weight`` of the layer at which the span ends; None if it has none."""
        return self.span.exit._parameters.get("weight")

    @property
    def anchor(self) -> nn.Parameter:
        """``parameter``; raises ModelMismatch where there is none."""
        if self.parameter is None:
            raise ModelMismatch(f"site {self.name!r} has lost its weight; seeds need the layers the run began with")
        return self.parameter

    def request(self, blueprint: str, seed: int) -> KernelRequested:
        """Asks for a kernel of ``blueprint`` here, initialised from ``seed``: all that a compiler needs."""
        return KernelRequested(
            blueprint=blueprint,
            kind=self.kind,
            dims=self.dims,
            seed=seed,
            geometry=self.geometry,
            dtype=str(self.anchor.dtype),
        )


def find_sites(model: nn.Module, wanted: Literal["auto"] | Sequence[str], optimizer: Optimizer) -> list[Site]:
    """The layers of ``model`` that have parameters of their own or are of a kind that may do without, in its order;
    only the ``wanted`` ones if named.

    Raises:
        UsageError: if a wanted layer does not exist or cannot hold a seed.
    """
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    owners = _owners(model)
    before = next((each for each in model.parameters() if id(each) in trained), None)
    sites: list[Site] = []
    for name, module in _layers(model):
        sites.append(_site(name, module, trained, owners, before))
        before = next((each for each in module._parameters.values() if id(each) in trained), before)
    if isinstance(wanted, str):
        if wanted != "auto":
            raise UsageError(f'sites={wanted!r} is neither "auto" nor a list of names; write sites=[{wanted!r}]')
        return sites
    for name in wanted:
        _check_wanted(name, model, sites)
    return [site for site in sites if site.name in set(wanted)]


def adopted(sites: Sequence[Site], table: SiteTable | None) -> list[Site]:
    """``sites`` as the ``table`` of their run has them: what could not hold a seed when the run began still cannot,
    and a layer without parameters that was no site then is none."""
    if table is None:
        return list(sites)
    then = {row[0]: row[1:] for row in zip(table.names, table.kinds, table.dims, table.reasons, strict=True)}
    kept = []
    for site in sites:
        if site.name in then:
            kind, dims, reason = then[site.name]
            kept.append(site if reason is None else replace(site, kind=kind, dims=dims, reason=reason))
        elif _has_parameters(site.span.exit):
            kept.append(site)
    return kept


@contextmanager
def call_counts(model: nn.Module, sites: Sequence[Site]) -> Iterator[dict[str, int]]:
    """Counts the forward calls of each supported site of ``model`` by name while inside."""
    counts = {site.name: 0 for site in sites if site.reason is None}
    watched = [(site.name, site.span.exit) for site in sites if site.reason is None]
    handles = [module.register_forward_hook(_counter(counts, name)) for name, module in watched]
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


def without_sites(sites: Sequence[Site]) -> str | None:
    """Why no seed can grow at any of ``sites``, in words; None if one can."""
    if any(site.reason is None for site in sites):
        return None
    counted = Counter(str(site.reason) for site in sites)
    told = [f"{count} x {reason}" if count > 1 else reason for reason, count in counted.most_common(5)]
    return "; ".join([*told, *(["..."] if len(counted) > 5 else [])]) or "it has no layers"


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
    """What may be a site, without the insides of parametrised layers and fossilised seeds."""
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
        elif _has_parameters(module) or _quantised(module) or _weightless(module):
            yield name, module


def _has_parameters(module: nn.Module) -> bool:
    return any(parameter is not None for parameter in module._parameters.values())


def _weightless(module: nn.Module) -> bool:
    kind = kind_of(module)
    return kind is not None and kind.weightless


def _owners(model: nn.Module) -> dict[int, list[str]]:
    """Names of all parameters, by identity; a shared one has several."""
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    return owners


def _site(
    name: str,
    module: nn.Module,
    trained: set[int],
    owners: Mapping[int, list[str]],
    neighbour: nn.Parameter | None,
) -> Site:
    span, kind = Span.of(module), kind_of(module)
    if kind is None or _quantised(module):
        what = type(module).__name__
        return Site(name, what, (), f"{what} is {'quantised' if _quantised(module) else 'no kind of site'}", span)
    weight = module._parameters.get("weight")
    parameter = neighbour if weight is None and kind.weightless else weight
    reason = _computed(module, kind) or kind.refusal(module) or _untrained(name, parameter, weight, trained, owners)
    if _lazy(module) or kind.refusal(module) is not None:
        return Site(name, kind.name, (), reason, span)
    try:
        geometry = canonical_json(kind.geometry_of(module).model_dump(mode="json"))
    except ValueError as error:
        unknown = f"its geometry is unknown: {' '.join(str(error).split())[:200]}"
        return Site(name, kind.name, kind.dims_of(module), reason or unknown, span)
    return Site(name, kind.name, kind.dims_of(module), reason, span, geometry, parameter)


def _computed(module: nn.Module, kind: Kind) -> str | None:
    """Why the output of ``module`` is not what its kind computes of its weight; None if it is."""
    if is_parametrized(module) or "weight" not in module._parameters:
        return "its weight is computed from other parameters"
    if _lazy(module) or (module._parameters["weight"] is None and not kind.weightless):
        return "its shape is not known yet; run the model once first"
    if any(
        name in vars(module) or getattr(type(module), name) is not getattr(kind.module(), name) for name in kind.methods
    ):
        return f"{type(module).__name__} has a forward of its own"
    return None


def _untrained(
    name: str,
    parameter: nn.Parameter | None,
    weight: nn.Parameter | None,
    trained: set[int],
    owners: Mapping[int, list[str]],
) -> str | None:
    """Why a seed could not be trained like ``parameter``, which is the site's ``weight`` if it has one."""
    if parameter is None:
        return "nothing in the model is trained"
    if not parameter.is_floating_point():
        return f"its weight is {parameter.dtype}"
    if weight is None:
        return None
    if others := _other_owners(name, owners[id(weight)]):
        return f"its weight is shared with {', '.join(others)}"
    if not weight.requires_grad:
        return "its weight is frozen"
    return None if id(weight) in trained else "its weight is not in the optimizer"


def _other_owners(name: str, names: Sequence[str]) -> list[str]:
    own = f"{name}.weight" if name else "weight"
    return [other for other in names if other != own]


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
    if site is not None and site.reason is None:
        return
    module = dict(model.named_modules()).get(name)
    if module is not None:
        reason = site.reason if site is not None else f"{type(module).__name__} is no kind of site"
        there_are = f"; there are {', '.join(KINDS.all)}" if kind_of(module) is None else ""
        raise UsageError(f"site {name!r} cannot hold a seed: {reason}{there_are}")
    close = difflib.get_close_matches(name, [s.name for s in sites if s.reason is None], n=1)
    hint = f"did you mean {close[0]!r}?" if close else 'sites="auto" finds them'
    raise UsageError(f"the model has no layer {name!r}; {hint}")
