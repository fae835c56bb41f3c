"""The mean over an image."""

from __future__ import annotations

import pytest
import torch

from esper.urza.operators import OPERATORS


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (3, 5, 4)])
def test_a_pool_gives_each_channels_mean(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    layer = OPERATORS["pool"].layer.model_validate({"name": "a", "input": "x"})
    pooled = layer.compute(x)
    assert pooled.shape == (*shape[:-2], 1, 1)
    assert torch.allclose(pooled.flatten(-3), x.flatten(-2).mean(-1), atol=1e-6)
