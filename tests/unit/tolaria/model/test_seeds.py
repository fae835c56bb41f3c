"""Live seeds: attached, fossilised, taken out again; and how they learn."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from esper.errors import Unsupported
from esper.kasmina.seed.seed import SEED_PREFIX, LiveSeed, clip
from tests.support.runs.sites import site_at


class Seeds:
    """A host of one layer with a seed."""

    def __init__(self, kernel: nn.Module | None = None) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 2))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.kernel = nn.Linear(3, 2) if kernel is None else kernel
        self.seed = LiveSeed("0#7", site_at(self.model, "0"), self.kernel, self.optimizer)
        self.x = torch.randn(5, 3)
        self.y = self.model(self.x).detach()
        self.effect = self.kernel(self.x).detach()


@pytest.fixture
def seeds() -> Seeds:
    return Seeds()


def same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a, b)


def test_an_attached_seed_adds_alpha_times_its_effect(seeds: Seeds) -> None:
    alpha = [0.25]
    seeds.seed.attach(lambda: alpha[0])
    assert same(seeds.model(seeds.x), seeds.y + 0.25 * seeds.effect)
    alpha[0] = 1.0
    assert same(seeds.model(seeds.x), seeds.y + seeds.effect)
    seeds.seed.attach(lambda: 0.5)
    assert same(seeds.model(seeds.x), seeds.y + 0.5 * seeds.effect)
    assert len(seeds.model[0]._forward_hooks) == 1


def test_an_input_given_by_keyword_reaches_the_seed(seeds: Seeds) -> None:
    seeds.seed.attach(lambda: 1.0)
    assert same(seeds.model[0](input=seeds.x), seeds.y + seeds.effect)


def test_a_live_seed_is_outside_the_model_and_a_fossil_in_it_under_its_site(seeds: Seeds) -> None:
    site = seeds.model[0]
    seeds.seed.attach(lambda: 0.5)
    assert len(list(seeds.model.parameters())) == 2
    seeds.seed.fossilise()
    assert seeds.model[0] is site
    assert type(site) is nn.Linear
    assert list(seeds.model.state_dict())[2:] == [f"0.{SEED_PREFIX}7.weight", f"0.{SEED_PREFIX}7.bias"]
    assert same(seeds.model(seeds.x), seeds.y + seeds.effect)
    assert len(site._forward_hooks) == 1


@pytest.mark.parametrize("fossil", [False, True])
def test_a_seed_that_was_taken_out_leaves_nothing(seeds: Seeds, fossil: bool) -> None:
    before = [(dict(vars(module)), dict(module._modules)) for module in seeds.model.modules()]
    seeds.seed.attach(lambda: 0.5)
    if fossil:
        seeds.seed.fossilise()
    seeds.seed.detach()
    seeds.seed.detach()
    assert [(dict(vars(module)), dict(module._modules)) for module in seeds.model.modules()] == before
    assert same(seeds.model(seeds.x), seeds.y)


def test_a_seed_can_be_switched_off_for_a_while(seeds: Seeds) -> None:
    seeds.seed.attach(lambda: 1.0)
    with seeds.seed.off():
        assert same(seeds.model(seeds.x), seeds.y)
    assert same(seeds.model(seeds.x), seeds.y + seeds.effect)


def test_a_copy_of_the_model_has_a_copy_of_the_seed(seeds: Seeds) -> None:
    seeds.seed.fossilise()
    twin = copy.deepcopy(seeds.model)
    with torch.no_grad():
        seeds.kernel.bias.add_(100.0)
    assert same(twin(seeds.x), seeds.y + seeds.effect)


@pytest.mark.parametrize("fossil", [False, True])
def test_a_seed_is_in_the_mode_of_its_site(fossil: bool) -> None:
    seeds = Seeds(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)))
    seeds.seed.fossilise() if fossil else seeds.seed.attach(lambda: 1.0)
    seeds.model.eval()
    tracked = int(seeds.kernel[1].num_batches_tracked)
    seeds.model(seeds.x)
    assert seeds.kernel[1].num_batches_tracked == tracked
    seeds.model.train()
    seeds.model(seeds.x)
    assert seeds.kernel[1].num_batches_tracked == tracked + 1


def test_a_kernel_of_another_shape_is_an_error_and_never_broadcast() -> None:
    seeds = Seeds(nn.Linear(3, 1))
    seeds.seed.attach(lambda: 1.0)
    with pytest.raises(Unsupported, match=r"kernel gives \(5, 1\) where its site gives \(5, 2\)"):
        seeds.model(seeds.x)


def test_under_autocast_the_hosts_dtype_is_kept() -> None:
    seeds = Seeds(nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2)))
    seeds.seed.attach(lambda: 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        assert seeds.model(seeds.x).dtype == torch.bfloat16


def test_a_blended_seed_learns_from_the_hosts_backward_at_a_factor_of_its_rate(seeds: Seeds) -> None:
    seeds.seed.attach(lambda: 0.5)
    seeds.model(seeds.x).sum().backward()
    weight, gradient = seeds.kernel.weight.detach().clone(), seeds.kernel.weight.grad
    assert gradient is not None
    seeds.seed.learn(seeds.optimizer, 3.0, None)
    assert torch.allclose(seeds.kernel.weight, weight - 3.0 * 0.1 * gradient)
    assert seeds.kernel.weight.grad is None
    assert seeds.optimizer.param_groups[0]["lr"] == 0.1


def test_gradients_are_clipped_apart_from_the_hosts_and_the_norm_is_the_one_before(seeds: Seeds) -> None:
    weight = seeds.kernel.weight.detach().clone()
    gradients = [torch.full((2, 3), 3.0), torch.zeros(2)]
    norm = seeds.seed.learn(seeds.optimizer, 1.0, 1.0, gradients)
    assert norm == pytest.approx(54**0.5)
    assert torch.allclose(weight - seeds.kernel.weight, torch.full((2, 3), 0.1 / 6**0.5), atol=1e-5)


def test_a_gradient_that_is_not_finite_moves_nothing_and_fails_the_seed(seeds: Seeds) -> None:
    before = copy.deepcopy(seeds.kernel.state_dict())
    gradients = [torch.full((2, 3), float("nan")), torch.zeros(2)]
    assert seeds.seed.learn(seeds.optimizer, 1.0, 1.0, gradients) is None
    assert seeds.seed.failed
    assert all(same(before[name], tensor) for name, tensor in seeds.kernel.state_dict().items())
    assert seeds.kernel.weight.grad is None


def test_a_small_gradient_is_not_scaled() -> None:
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([0.3, 0.4])
    assert clip([parameter], 1.0) == pytest.approx(0.5)
    assert parameter.grad.tolist() == pytest.approx([0.3, 0.4])
