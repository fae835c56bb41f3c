"""Ids of blueprints and kernels, as they were first given. A log names them, so they never change."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from torch import nn

from esper.tezzeret import build
from esper.tezzeret.kernel import kernel_bytes
from esper.urza import built_in
from tests.support.paths import FIXTURES
from tests.support.runs.sites import requested

GOLDEN = FIXTURES / "kernels.json"
SITES: dict[str, nn.Module] = {
    "linear": nn.Linear(20, 10),
    "linear of one": nn.Linear(1, 1),
    "linear, wide, no bias": nn.Linear(300, 7, bias=False),
    "linear in double": nn.Linear(8, 6, dtype=torch.float64),
    "linear in half": nn.Linear(8, 6, dtype=torch.float16),
    "linear in bfloat16": nn.Linear(8, 6, dtype=torch.bfloat16),
    "layer norm": nn.LayerNorm(12),
    "layer norm in double": nn.LayerNorm(40, dtype=torch.float64),
    "conv": nn.Conv2d(6, 8, 3, padding=1),
    "conv 1x1 strided": nn.Conv2d(6, 8, 1, stride=2),
    "conv of one channel": nn.Conv2d(1, 8, 5),
    "conv oblong": nn.Conv2d(6, 8, (5, 2), stride=(3, 2), padding=(2, 0), dilation=(1, 2)),
    "conv same": nn.Conv2d(6, 8, 3, padding="same", dilation=2),
    "conv valid": nn.Conv2d(16, 4, 3, padding="valid", dilation=(2, 1)),
    "conv reflecting": nn.Conv2d(6, 8, 7, padding=3, padding_mode="reflect"),
    "conv circular": nn.Conv2d(70, 8, 3, padding=2, padding_mode="circular"),
    "conv in groups, double": nn.Conv2d(6, 12, 3, padding=1, groups=3, dtype=torch.float64),
    "conv in bfloat16": nn.Conv2d(6, 8, 3, stride=2, dtype=torch.bfloat16),
}
SEEDS = (0, 7, 2**63 - 1)


def given() -> dict[str, dict[str, str]]:
    """By blueprint, the SHA-256 of its kernel for each site and seed."""
    found: dict[str, dict[str, str]] = {}
    for blueprint in built_in().values():
        for name, site in SITES.items():
            if type(site).__name__ in blueprint.kinds:
                for seed in SEEDS:
                    digest = hashlib.sha256(
                        kernel_bytes(build(blueprint, requested(blueprint, site, seed)))
                    ).hexdigest()
                    found.setdefault(blueprint.blueprint, {})[f"{name}, {seed}"] = digest
    return found


@pytest.mark.usefixtures("one_thread")
def test_every_blueprint_and_kernel_has_the_id_that_it_was_first_given() -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    now = given()
    assert {key: now.get(key) for key in golden} == golden
