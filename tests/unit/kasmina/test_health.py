"""Health of layers whose answers are known."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esper.kasmina.health import Probe, activation_statistics, dormant_share
from esper.kasmina.kinds import KINDS
from esper.kasmina.sites import Site
from esper.kasmina.span import Span


def site(name: str, module: nn.Module, reason: str | None = None) -> Site:
    return Site(name, type(module).__name__, (), reason, Span.of(module))


def linear(weight: list[list[float]], bias: list[float]) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))
    return layer


def test_a_linear_layer_gives_its_known_mean_variance_and_dormant_share() -> None:
    layer = linear([[1.0], [-1.0], [2.0], [0.0]], [0.0, 0.0, 0.0, 0.0])
    with Probe([site("fc", layer)], [0]) as probe:
        layer(torch.tensor([[1.0], [3.0]]))
    health = probe.result()
    values = [1.0, -1.0, 2.0, 0.0, 3.0, -3.0, 6.0, 0.0]
    mean = sum(values) / 8
    assert health.activation_mean == (pytest.approx(mean),)
    assert health.activation_variance == (pytest.approx(sum((v - mean) ** 2 for v in values) / 8),)
    assert health.dormant_share == (0.5,)  # the unit that is never above 0 and the one that is always 0
    assert health.gradient_norm == health.gradient_to_weight == (None,)
    assert health.effective_rank == health.correlation == health.bottleneck == (None,)


def test_a_unit_is_dormant_up_to_a_score_of_0_025() -> None:
    others = 1.0
    # s_i = a / mean(a, 1, 1, 1) <= 0.025  <=>  a <= 0.075 / 3.975
    limit = 0.075 / 3.975
    assert dormant_share(torch.tensor([[limit * 0.99, others, others, others]]), -1) == 0.25
    assert dormant_share(torch.tensor([[limit * 1.01, others, others, others]]), -1) == 0.0


def test_a_layer_that_only_gives_zeros_or_less_is_dormant_as_a_whole() -> None:
    assert dormant_share(torch.full((4, 3), -2.0), -1) == 1.0
    assert dormant_share(torch.zeros(4, 3), -1) == 1.0


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 4, 5)])
def test_a_unit_of_a_convolution_is_a_channel(shape: tuple[int, ...]) -> None:
    output = torch.ones(shape)
    output.select(-3, 1).fill_(-5.0)
    mean, _, dormant = activation_statistics(output, KINDS["Conv2d"].unit).tolist()
    assert dormant == pytest.approx(1 / 3)
    assert mean == pytest.approx(-1.0)


@pytest.mark.parametrize("shape", [(6,), (2, 6), (2, 3, 6)])
def test_a_unit_of_a_linear_layer_is_its_last_dimension(shape: tuple[int, ...]) -> None:
    output = torch.ones(shape)
    output[..., :2] = 0
    assert activation_statistics(output, KINDS["Linear"].unit).tolist()[2] == pytest.approx(1 / 3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_measured(bad: float) -> None:
    layer = linear([[1.0], [1.0]], [0.0, bad])
    with Probe([site("fc", layer)], [0]) as probe:
        layer(torch.ones(2, 1)).sum().backward()
        probe.gradients()
    health = probe.result()
    assert health.activation_mean == health.activation_variance == health.dormant_share == (None,)
    assert health.gradient_norm == (pytest.approx(8**0.5),)


def test_the_gradient_and_its_ratio_to_the_weight_are_known() -> None:
    layer = linear([[3.0, 4.0]], [0.0])
    with Probe([site("fc", layer)], [0]) as probe:
        layer(torch.tensor([[6.0, 8.0]])).sum().backward()
        probe.gradients()
    health = probe.result()
    assert health.gradient_norm == (pytest.approx(10.0),)
    assert health.gradient_to_weight == (pytest.approx(2.0),)


def test_a_weight_of_zeros_has_a_gradient_but_no_ratio() -> None:
    layer = linear([[0.0]], [0.0])
    with Probe([site("fc", layer)], [0]) as probe:
        layer(torch.ones(1, 1)).sum().backward()
        probe.gradients()
    assert probe.result().gradient_norm == (1.0,)
    assert probe.result().gradient_to_weight == (None,)


def test_only_the_chosen_sites_are_measured_and_what_was_not_called_is_none() -> None:
    layers = [linear([[1.0]], [float(i)]) for i in range(4)]
    sites = [site(str(i), layer) for i, layer in enumerate(layers)]
    with Probe(sites, [3, 1]) as probe:
        assert not layers[0]._forward_hooks
        layers[3](torch.ones(1, 1))
    assert not any(layer._forward_hooks for layer in layers)
    assert probe.result().site == (3, 1)
    assert probe.result().activation_mean == (4.0, None)


def test_an_unsupported_site_is_not_measured() -> None:
    norm = nn.LayerNorm(2)
    with Probe([site("norm", norm, "LayerNorm is no kind of site")], [0]) as probe:
        norm(torch.ones(1, 2)).sum().backward()
        probe.gradients()
    assert probe.result().activation_mean == probe.result().gradient_norm == (None,)


def test_activations_are_read_before_a_relu_changes_them_in_place() -> None:
    layer = linear([[-2.0], [4.0]], [0.0, 0.0])
    model = nn.Sequential(layer, nn.ReLU(inplace=True))
    with Probe([site("0", layer)], [0]) as probe:
        model(torch.ones(3, 1)).sum().backward()
    assert probe.result().activation_mean == (1.0,)
    assert probe.result().activation_variance == (9.0,)


def test_hooks_are_removed_when_the_step_raises() -> None:
    layer = nn.Linear(2, 2)
    with pytest.raises(RuntimeError), Probe([site("0", layer)], [0]):
        layer(torch.ones(1, 3))
    assert not layer._forward_hooks


def test_sampling_a_step_leaves_the_hosts_bits_as_they_are() -> None:
    def step(probed: bool) -> list[Tensor]:
        torch.manual_seed(0)
        layers: list[nn.Module] = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.3)]
        model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 3), nn.ReLU(inplace=True))
        sites = [site("0", model[0]), site("5", model[5])]
        with Probe(sites, [0, 1] if probed else []) as probe:
            output = model(torch.randn(5, 1, 6, 6))
            F.cross_entropy(output, torch.arange(5) % 3).backward()
            probe.gradients()
        if probed:
            assert None not in probe.result().dormant_share + probe.result().gradient_to_weight
        grads = [parameter.grad for parameter in model.parameters()]
        return [output, *(grad for grad in grads if grad is not None), *model.buffers(), torch.get_rng_state()]

    bare, probed = step(False), step(True)
    assert len(bare) == len(probed)
    assert all(torch.equal(mine, its) for mine, its in zip(bare, probed, strict=True))
