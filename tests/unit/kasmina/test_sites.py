"""Sites are found in any module; what cannot hold a seed says why."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from esper.errors import UsageError
from esper.kasmina.kinds import KINDS
from esper.kasmina.seed.seed import LiveSeed
from esper.kasmina.sites import (
    SEED_PREFIX,
    Site,
    call_counts,
    find_sites,
    reason_from_calls,
    site_table,
    with_calls,
)
from tests.support.runs.sites import site_at

THERE_ARE = ", ".join(sorted(kind.name for kind in KINDS))


def sgd(*parameters: nn.Parameter) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def found(model: nn.Module) -> dict[str, Site]:
    return {site.name: site for site in find_sites(model, "auto", sgd(*model.parameters()))}


def only(model: nn.Module) -> Site:
    (site,) = found(model).values()
    return site


class Doubling(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Named(nn.Linear):
    """A subclass that computes the same."""


def test_linear_and_conv_layers_are_found_in_order_with_their_dims() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, (3, 5), stride=(2, 1)), nn.ReLU(), nn.Flatten(), Named(8, 4))
    table = site_table(find_sites(model, "auto", sgd(*model.parameters())), {"low@1": [5, 7], "wide@1": [-1, 9]})
    assert table.names == ("0", "3")
    assert table.kinds == ("Conv2d", "Linear")
    assert table.dims == ((3, 8, 3, 5, 2, 1), (8, 4))
    assert table.reasons == (None, None)
    assert table.blueprints == ("low@1", "wide@1")
    assert table.costs == ((5, -1), (7, 9))


def test_other_layers_with_parameters_are_reported_with_a_reason_and_cost_nothing() -> None:
    model = nn.Sequential(nn.Embedding(4, 4), nn.GroupNorm(2, 4), nn.Dropout(), nn.Linear(4, 4), nn.BatchNorm1d(4))
    sites = find_sites(model, "auto", sgd(*model.parameters()))
    assert [(site.name, site.kind) for site in sites if site.reason] == [
        ("0", "Embedding"),
        ("1", "GroupNorm"),
        ("4", "BatchNorm1d"),
    ]
    assert all(site.reason == f"{site.kind} is no kind of site" and site.dims == () for site in sites if site.reason)
    assert site_table(sites, {"low@1": [3, 3, 3, 3]}).costs == ((-1,), (-1,), (3,), (-1,))


def test_nothing_is_wrapped_or_hooked_by_the_search() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Conv2d(1, 1, 1))
    before = [(module, dict(vars(module))) for module in model.modules()]
    found(model)
    assert [(module, dict(vars(module))) for module in model.modules()] == before
    assert not any(module._forward_hooks for module in model.modules())


def test_a_forward_of_its_own_is_unsupported() -> None:
    assert only(Doubling(2, 2)).reason == "Doubling has a forward of its own"
    patched = nn.Linear(2, 2)
    patched.forward = lambda x: x  # type: ignore[method-assign]
    assert only(patched).reason == "Linear has a forward of its own"

    class Padded(nn.Conv2d):
        def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return super()._conv_forward(input, weight, bias)

    assert only(Padded(1, 1, 1)).reason == "Padded has a forward of its own"


def test_a_computed_weight_is_unsupported_and_its_insides_are_not_listed() -> None:
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    model = nn.Sequential(normed, nn.utils.parametrizations.spectral_norm(nn.Conv2d(1, 2, 3)))
    assert {name: site.reason for name, site in found(model).items()} == {
        "0": "its weight is computed from other parameters",
        "1": "its weight is computed from other parameters",
    }
    assert found(normed)[""].reason == "its weight is computed from other parameters"
    assert len(found(normed)) == 1


def test_a_pruned_weight_is_unsupported() -> None:
    pruned = nn.Linear(4, 4)
    prune.l1_unstructured(pruned, "weight", 0.5)
    assert only(pruned).reason == "its weight is computed from other parameters"


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_a_lazy_layer_is_unsupported_until_its_shape_is_known() -> None:
    lazy = nn.LazyLinear(4)
    assert only(lazy).reason == "its shape is not known yet; run the model once first"
    assert only(lazy).dims == ()
    lazy(torch.ones(1, 3))
    assert (only(lazy).reason, only(lazy).dims) == (None, (3, 4))


def test_a_shared_weight_is_unsupported_in_all_its_places() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(5, 3), "head": nn.Linear(3, 5)})
    model["head"].weight = model["embed"].weight
    assert found(model)["head"].reason == "its weight is shared with embed.weight"


def test_a_layer_that_has_two_names_is_unsupported() -> None:
    layer = nn.Linear(2, 2)
    assert only(nn.Sequential(layer, nn.ReLU(), layer)).reason == "its weight is shared with 2.weight"


def test_a_frozen_weight_or_one_that_nobody_trains_is_unsupported() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].weight.requires_grad = False
    sites = find_sites(model, "auto", sgd(model[0].weight, model[1].weight, model[2].bias))
    assert [site.reason for site in sites] == ["its weight is frozen", None, "its weight is not in the optimizer"]


def test_a_weight_that_is_not_real_is_unsupported() -> None:
    assert only(nn.Linear(2, 2, dtype=torch.complex64)).reason == "its weight is torch.complex64"


def test_wanted_sites_are_the_only_ones() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    assert [site.name for site in find_sites(model, ["2"], sgd(*model.parameters()))] == ["2"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["body.fc9"], r"no layer 'body.fc9'; did you mean 'body.fc1'\?"),
        (["zzz"], "no layer 'zzz'; sites=\"auto\" finds them"),
        (["body.norm"], f"'body.norm' cannot hold a seed: BatchNorm1d is no kind of site; there are {THERE_ARE}$"),
        (["body.act"], f"'body.act' cannot hold a seed: ReLU is no kind of site; there are {THERE_ARE}$"),
        (["body"], f"'body' cannot hold a seed: ModuleDict is no kind of site; there are {THERE_ARE}$"),
        ("body.fc1", r"write sites=\['body.fc1'\]"),
    ],
)
def test_a_wish_that_cannot_be_met_is_a_usage_error_that_names_it(wanted: Any, message: str) -> None:
    body = nn.ModuleDict({"fc1": nn.Linear(2, 2), "norm": nn.BatchNorm1d(2), "act": nn.ReLU()})
    model = nn.ModuleDict({"body": body})
    with pytest.raises(UsageError, match=message):
        find_sites(model, wanted, sgd(*model.parameters()))


def test_calls_are_counted_and_the_hooks_are_gone_afterwards() -> None:
    model = nn.ModuleDict({"once": nn.Linear(2, 2), "twice": nn.Linear(2, 2), "never": nn.Linear(2, 2)})
    model["norm"] = nn.BatchNorm1d(2)
    sites = find_sites(model, "auto", sgd(*model.parameters()))
    with call_counts(model, sites) as counts:
        model["twice"](model["twice"](model["norm"](model["once"](torch.ones(2, 2)))))
    assert counts == {"once": 1, "twice": 2, "never": 0}
    assert not any(module._forward_hooks for module in model.modules())
    reasons = {site.name: site.reason for site in with_calls(sites, counts)}
    assert reasons == {
        "once": None,
        "twice": "called 2 times in one forward pass",
        "norm": "BatchNorm1d is no kind of site",
        "never": "never called in a forward pass",
    }
    assert reason_from_calls(1) is None


def test_the_output_projection_of_an_attention_layer_is_never_called() -> None:
    model = nn.MultiheadAttention(4, 2)
    sites = find_sites(model, "auto", sgd(*model.parameters()))
    x = torch.ones(3, 1, 4)
    with call_counts(model, sites) as counts:
        model(x, x, x)
    assert counts == {"out_proj": 0}


def test_the_insides_of_a_fossil_are_no_sites_but_its_site_still_is_one() -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    kernel = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 3))
    seed = LiveSeed("0#1", site_at(model, "0"), kernel, sgd(*model.parameters()))
    seed.fossilise()
    assert f"0.{SEED_PREFIX}1.1.weight" in model.state_dict()
    assert list(found(model)) == ["0"]
    assert found(model)["0"].reason is None
