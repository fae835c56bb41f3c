"""A run's kernels: from their files, or compiled again from what the log says of them where a file is lost."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from esper.artifacts.port import ArtifactStore
from esper.errors import CorruptArtifact
from esper.events.assets import BlueprintRegistered, KernelCompiled
from esper.events.topics import ASSETS
from esper.log.ordering import once
from esper.log.port import Log
from esper.tezzeret.birth import remade
from esper.tezzeret.kernel import load_kernel
from esper.tezzeret.module import Kernel


def kernel_of(
    log: Log,
    store: ArtifactStore,
    blueprints: Mapping[str, BlueprintRegistered],
    sha256: str,
    device: torch.device | str = "cpu",
    *,
    newborn: bool,
) -> Kernel:
    """The kernel with that SHA-256 on ``device``. Of one that is not ``newborn`` only the graph counts: a checkpoint
    has its tensors. Raises CorruptArtifact where its file is lost and it cannot be compiled again."""
    try:
        return load_kernel(store, sha256, device)
    except CorruptArtifact as damage:
        told = (event.content for _, event in once(log.read(ASSETS)))
        made = (each for each in told if isinstance(each, KernelCompiled) and each.geometry is not None)
        compiled = next((each for each in made if each.kernel == sha256), None)
        if compiled is None or compiled.blueprint not in blueprints:
            raise
        return remade(store, compiled, blueprints[compiled.blueprint], damage, device, newborn=newborn)
