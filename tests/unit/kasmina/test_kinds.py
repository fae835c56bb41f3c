"""What every kind of site keeps, those of installed packages too: each file in `esper/kasmina/kinds` adds tests."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from esper.artifacts import open_store
from esper.errors import UsageError
from esper.events.assets import KernelCompiled
from esper.kasmina import generators
from esper.kasmina.health import Probe
from esper.kasmina.kinds import KINDS, Kind, kind_of
from esper.kasmina.seed.isolation import gate_losses, isolated_gradients
from esper.kasmina.seed.seed import LiveSeed
from esper.kasmina.sites import Site, find_sites, site_table
from esper.tezzeret import build, compile_kernel
from esper.urza import built_in, parameter_count

# torch says once per process that an even kernel with padding "same" may need a copy.
pytestmark = [pytest.mark.filterwarnings("ignore:Using padding='same'"), pytest.mark.usefixtures("one_thread")]

EXAMPLES = [pytest.param(kind, example, id=f"{kind.name}: {example}") for kind in KINDS for example in kind.examples()]
each_example = pytest.mark.parametrize(("kind", "example"), EXAMPLES)


class Host(nn.Module):
    """A host that trains something besides the module, which may have no parameters."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        kept = next((each.dtype for each in module.parameters()), torch.float32)
        self.scale = nn.Parameter(torch.ones((), dtype=kept))
        self.site = copy.deepcopy(module)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.site(self.scale * x)
        return y


class Seeds:
    """A host, its optimiser, its site and an input."""

    def __init__(self, module: nn.Module) -> None:
        self.model = Host(module)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.site: Site = next(each for each in find_sites(self.model, "auto", self.optimizer) if each.name == "site")
        kind = KINDS[self.site.kind]
        shape = kind.sample(self.site.dims, geometry_of(self.site))
        self.x = torch.randn(shape, generator=torch.Generator().manual_seed(5)).to(self.site.anchor)

    def seeds(self) -> list[LiveSeed]:
        """One of each built-in blueprint that fits, with nothing attached."""
        fitting = [each for each in built_in().values() if parameter_count(each, self.site.kind, self.site.dims) > 0]
        kernels = [build(each, self.site.request(each.blueprint, 7)) for each in fitting]
        return [LiveSeed("site#1", self.site, kernel, self.optimizer) for kernel in kernels]


def geometry_of(site: Site) -> Any:
    assert site.geometry is not None
    return KINDS[site.kind].geometry.model_validate_json(site.geometry)


def loss(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    y: torch.Tensor = model(x)
    return y.square().flatten(1).mean(1)


def bits(seeds: Seeds) -> list[Any]:
    state = [*seeds.model.state_dict().values(), *(p.grad for p in seeds.model.parameters() if p.grad is not None)]
    output = copy.deepcopy(seeds.model)(seeds.x)  # a module with statistics of its own moves them
    return [tensor.contiguous().reshape(-1).view(torch.uint8).tolist() for tensor in [*state, output]]


@pytest.mark.parametrize("kind", list(KINDS), ids=lambda kind: kind.name)
def test_a_kind_names_its_dims_and_has_examples(kind: Kind) -> None:
    assert kind.dims[:2] == ("in", "out")
    assert len(set(kind.dims)) == len(kind.dims)
    assert kind.unit < 0
    assert kind.examples()


@each_example
def test_its_modules_are_of_it_and_so_are_plain_subclasses(kind: Kind, example: nn.Module) -> None:
    assert kind_of(example) is kind
    plain = copy.copy(example)
    plain.__class__ = type("Plain", (type(example),), {})
    site = Seeds(plain).site
    assert (site.kind, site.reason) == (kind.name, None)


@each_example
def test_a_module_that_computes_something_else_is_refused(kind: Kind, example: nn.Module) -> None:
    for method in kind.methods:
        original = getattr(type(example), method)
        other = copy.copy(example)
        other.__class__ = type("Other", (type(example),), {method: lambda self, *a, o=original: o(self, *a)})
        patched = copy.deepcopy(example)
        setattr(patched, method, lambda *_: None)
        for module in (other, patched):
            model = nn.ModuleList([nn.Linear(2, 2), module])
            sites = find_sites(model, "auto", torch.optim.SGD(model.parameters(), lr=0.1))
            assert str(sites[1].reason).endswith("has a forward of its own")


@each_example
def test_a_site_of_it_says_all_that_a_compiler_needs(kind: Kind, example: nn.Module) -> None:
    site = Seeds(example).site
    assert site.reason is None
    assert len(site.dims) == len(kind.dims)
    assert all(type(dim) is int and dim > 0 for dim in site.dims)
    assert geometry_of(site) == kind.geometry_of(example)
    assert kind.geometry().model_dump() == kind.geometry(**kind.geometry().model_dump()).model_dump()
    with pytest.raises(ValidationError):
        kind.geometry.model_validate({"code": "import os"})
    request = site.request("b@1", 3)
    assert (request.kind, request.dims, request.dtype) == (kind.name, site.dims, str(site.anchor.dtype))


@each_example
def test_shapes_and_units_are_those_of_the_module(kind: Kind, example: nn.Module) -> None:
    seeds = Seeds(example)
    y = seeds.model(seeds.x)
    assert tuple(y.shape) == kind.output(tuple(seeds.x.shape), seeds.site.dims, geometry_of(seeds.site))
    assert seeds.x.shape[kind.unit] == seeds.site.dims[0]
    assert y.shape[kind.unit] == seeds.site.dims[1]


@each_example
def test_every_blueprint_that_fits_is_born_from_the_request_alone(tmp_path: Any, kind: Kind, example: Any) -> None:
    site = Seeds(example).site
    fitting = [each for each in built_in().values() if kind.name in each.kinds]
    assert fitting
    for blueprint in fitting:
        request = site.request(blueprint.blueprint, 7)
        content, _ = compile_kernel(open_store(f"file:///{tmp_path}"), blueprint, request)
        assert isinstance(content, KernelCompiled), content
        assert content.parameters == parameter_count(blueprint, kind.name, site.dims)


@each_example
def test_a_health_sample_has_what_the_module_can_give(kind: Kind, example: nn.Module) -> None:
    seeds = Seeds(example)
    with Probe([seeds.site], [0]) as probe:
        loss(seeds.model, seeds.x).mean().backward()
        probe.gradients()
    health = probe.result()
    assert health.activation_mean[0] is not None
    assert health.dormant_share[0] is not None
    assert (health.gradient_norm[0] is None) == (seeds.site.weight is None)


@each_example
def test_an_isolated_pass_reaches_the_kernel_and_leaves_no_trace(kind: Kind, example: nn.Module) -> None:
    seeds = Seeds(example)
    own = loss(seeds.model, seeds.x).mean()
    own.backward()
    before = bits(seeds)
    for seed in seeds.seeds():
        value, gradients = isolated_gradients(seeds.model, loss, seeds.x, seed.span, seed.kernel, generators.capture())
        assert value == pytest.approx(float(own.detach()), rel=1e-6)
        assert gradients is not None
        assert any(gradient.any() for gradient in gradients)
        without, within = gate_losses(seeds.model, loss, [seeds.x], seed.span, seed.kernel)
        assert torch.equal(without, within)
        assert bits(seeds) == before


@each_example
def test_a_seed_learns_with_the_host_and_a_culled_one_leaves_nothing(kind: Kind, example: nn.Module) -> None:
    seeds = Seeds(example)
    before = bits(seeds)
    for seed in seeds.seeds():
        seed.attach(lambda: 0.5)
        born = {name: tensor.detach().clone() for name, tensor in seed.kernel.named_parameters()}
        for _ in range(2):  # what was zero moves first, the rest after it
            loss(seeds.model, seeds.x).mean().backward()
            assert seed.learn(seeds.optimizer, 100.0, None)
        assert not any(torch.equal(tensor, born[name]) for name, tensor in seed.kernel.named_parameters())
        seed.fossilise()
        assert bits(seeds) != before
        seed.detach()
        seeds.optimizer.zero_grad()
        assert bits(seeds) == before


@each_example
def test_a_table_of_it_costs_what_its_kernels_have(kind: Kind, example: nn.Module) -> None:
    seeds = Seeds(example)
    costs = {each.blueprint: [parameter_count(each, kind.name, seeds.site.dims)] for each in built_in().values()}
    table = site_table([seeds.site], costs)
    assert table.kinds == (kind.name,)
    counts = [sum(each.numel() for each in seed.kernel.parameters()) for seed in seeds.seeds()]
    assert sorted(cost for cost in table.costs[0] if cost > 0) == sorted(counts)


def test_two_kinds_of_one_class_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(type(KINDS["Linear"])):  # type: ignore[misc]
        name = "Other"

    monkeypatch.setitem(vars(KINDS), "all", {**KINDS.all, "Other": Other()})
    with pytest.raises(UsageError, match="Linear is of two kinds, Linear and Other; drop one"):
        kind_of(nn.Linear(2, 2))
