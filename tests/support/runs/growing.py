"""Seeds put into a model as a run would have left them there, without a run."""

from __future__ import annotations

import torch
from torch import nn

from esper.kasmina.seed.seed import SEED_PREFIX
from esper.tezzeret.builder import build
from esper.tezzeret.grown import join
from esper.tezzeret.module import Placed
from esper.urza.library import built_in
from tests.support.runs.sites import site_at

BLUEPRINTS = {each.name: each for each in built_in().values()}
FITTING = {"Linear": "bottleneck_mlp", "Conv2d": "bottleneck_conv", "LayerNorm": "norm_mlp"}


def grow(model: nn.Module, *sites: str, seed: int = 3) -> nn.Module:
    """``model`` with a seed of random weights at each of ``sites``; one that is named again gets another."""
    generator = torch.Generator().manual_seed(seed)
    for number, name in enumerate(sites, start=1):
        site = site_at(model, name)
        blueprint = BLUEPRINTS[FITTING[site.kind]]
        kernel = build(blueprint, site.request(blueprint.blueprint, number)).to(site.anchor.dtype)
        with torch.no_grad():
            for parameter in kernel.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
        join(model, kernel, Placed(name, name, site.dims), f"{SEED_PREFIX}{number}")
    return model
