"""LayerNorm as a site, also where it has no weight whose optimiser group a seed could follow."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from esper.kasmina.seed.seed import LiveSeed
from esper.kasmina.sites import Site, find_sites


def sites(model: nn.Module, *groups: list[nn.Parameter]) -> dict[str, Site]:
    optimizer = torch.optim.SGD([{"params": group, "lr": 0.1 * (n + 1)} for n, group in enumerate(groups)])
    return {site.name: site for site in find_sites(model, "auto", optimizer)}


def test_a_layer_norm_is_a_site_and_so_is_one_without_parameters() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.LayerNorm(3, elementwise_affine=False))
    found = sites(model, list(model.parameters()))
    assert [(site.kind, site.dims, site.reason) for site in found.values()] == [
        ("Linear", (4, 3), None),
        ("LayerNorm", (3, 3), None),
        ("LayerNorm", (3, 3), None),
    ]


def test_one_over_several_dimensions_says_why_not() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm((2, 3)))
    site = sites(model, list(model.parameters()))["1"]
    assert (site.kind, site.dims) == ("LayerNorm", ())
    assert site.reason == "it normalises over 2 dimensions, and seeds know one of features"


def test_a_seed_without_a_weight_beside_it_is_trained_like_the_trained_parameter_before_it() -> None:
    bare = nn.LayerNorm(3, elementwise_affine=False)
    model = nn.ModuleDict({"first": nn.Linear(3, 3), "frozen": nn.Linear(3, 3), "bare": bare, "last": nn.Linear(3, 3)})
    model.double()
    model["frozen"].requires_grad_(False)
    groups = [list(model[name].parameters()) for name in ("last", "first")]
    site = sites(model, *groups)["bare"]
    assert site.anchor is model["first"].weight
    assert site.request("b@1", 0).dtype == "torch.float64"
    optimizer = torch.optim.SGD([{"params": groups[0], "lr": 0.1}, {"params": groups[1], "lr": 0.2}])
    seed = LiveSeed("bare#1", site, nn.Linear(3, 3), optimizer)
    assert seed.kernel.weight.dtype == torch.float64
    assert seed.optimizer.param_groups[0]["lr"] == 0.2


def test_at_the_beginning_of_a_model_it_is_the_first_trained_parameter() -> None:
    model = nn.Sequential(nn.LayerNorm(4, elementwise_affine=False), nn.Linear(4, 2))
    assert sites(model, list(model.parameters()))["0"].anchor is model[1].weight


def test_where_nothing_is_trained_no_seed_may_grow() -> None:
    model = nn.Sequential(nn.LayerNorm(4, elementwise_affine=False), nn.Linear(4, 2))
    found = sites(model, [nn.Parameter(torch.zeros(1))])
    assert [site.reason for site in found.values()] == [
        "nothing in the model is trained",
        "its weight is not in the optimizer",
    ]


@pytest.mark.parametrize("affine", [True, False])
def test_a_subclass_with_a_forward_of_its_own_is_refused(affine: bool) -> None:
    class Other(nn.LayerNorm):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return input

    model = nn.Sequential(nn.Linear(4, 4), Other(4, elementwise_affine=affine))
    assert sites(model, list(model.parameters()))["1"].reason == "Other has a forward of its own"
