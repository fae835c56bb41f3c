"""Sites and requests of single layers, as a test needs them."""

from __future__ import annotations

import torch
from torch import nn

from esper.events.assets import BlueprintRegistered, KernelRequested
from esper.kasmina.sites import Site, find_sites


def site_at(model: nn.Module, name: str, optimizer: torch.optim.Optimizer | None = None) -> Site:
    """The site ``name`` of ``model``, supported or not."""
    trained = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
    return next(site for site in find_sites(model, "auto", trained) if site.name == name)


def requested(blueprint: BlueprintRegistered, layer: nn.Module, seed: int = 7) -> KernelRequested:
    """Asks for a kernel of ``blueprint`` at ``layer``."""
    return site_at(layer, "").request(blueprint.blueprint, seed)
