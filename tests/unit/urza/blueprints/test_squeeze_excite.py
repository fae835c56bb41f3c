"""The built-in squeeze-excite: channels weighed by what the whole image says."""

from __future__ import annotations

import torch
from torch import nn

from esper.tezzeret import build
from esper.urza import built_in, parameter_count
from tests.support.runs.sites import requested

BLUEPRINT = next(each for each in built_in().values() if each.name == "squeeze_excite")


def test_its_effect_is_a_value_at_each_position_times_a_weight_for_each_channel_of_each_image() -> None:
    site = nn.Conv2d(6, 8, 3, stride=2, padding=1)
    kernel = build(BLUEPRINT, requested(BLUEPRINT, site))
    x = torch.randn(2, 6, 9, 7)
    assert not kernel(x).any()
    with torch.no_grad():
        kernel.get_parameter("excite.weight").normal_()
        weight = kernel.excite(nn.functional.gelu(kernel.squeeze(x.mean((2, 3), keepdim=True))))
        value = kernel.value(kernel.depth(x))
    assert weight.shape == (2, 8, 1, 1)
    assert value.shape == site(x).shape
    assert torch.equal(kernel(x), value * weight)


def test_it_is_cheap() -> None:
    count = parameter_count(BLUEPRINT, "Conv2d", (64, 64, 3, 3, 1, 1))
    assert count == 64 * 9 + 64 * 64 + (64 * 16 + 16) + 16 * 64
    assert count < 64 * 64 * 9 / 4
