"""A seed in TRAINING, a gate's measurement and a health sample leave no trace in the host: every bit is compared."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from esper.kasmina import generators
from esper.kasmina.effect import Effect
from esper.kasmina.health import Probe
from esper.kasmina.seed.isolation import gate_losses, isolated, isolated_gradients
from esper.kasmina.seed.seed import LiveSeed
from esper.kasmina.seed.stages import Stage
from esper.kasmina.sites import find_sites
from esper.tezzeret import build
from esper.urza import built_in
from tests.support.runs.sites import requested, site_at

STEPS = 4


class NoisyInput(nn.Module):
    """Draws from all three global generators in training, as augmentation inside a model does."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            x = x + 0.01 * (torch.randn_like(x) + np.random.rand() + random.random() + np.random.randn())
        return x


def mlp() -> nn.Module:
    layers = [NoisyInput(), nn.Flatten(), nn.Linear(36, 12), nn.BatchNorm1d(12), nn.ReLU(inplace=True), nn.Dropout(0.4)]
    return nn.Sequential(*layers, nn.Linear(12, 12), nn.ReLU(inplace=True), nn.Linear(12, 4))


def cnn() -> nn.Module:
    layers = [NoisyInput(), nn.Conv2d(1, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Dropout2d(0.3)]
    return nn.Sequential(*layers, nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(32, 4))


def residual_kernel(site: nn.Module) -> nn.Module:
    """A kernel with dropout and batch norm of its own, whose last weight is zero."""
    if isinstance(site, nn.Conv2d):
        first: nn.Module = nn.Conv2d(site.in_channels, 5, site.kernel_size, site.stride, site.padding)
        norm: nn.Module = nn.BatchNorm2d(5)
        last: nn.Module = nn.Conv2d(5, site.out_channels, 1)
    else:
        assert isinstance(site, nn.Linear)
        first, norm, last = nn.Linear(site.in_features, 5), nn.BatchNorm1d(5), nn.Linear(5, site.out_features)
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    return nn.Sequential(first, norm, nn.ReLU(inplace=True), nn.Dropout(0.5), last)


def kernels() -> dict[str, Callable[[nn.Module], nn.Module]]:
    made: dict[str, Callable[[nn.Module], nn.Module]] = {"dropout and batch norm": residual_kernel}
    for blueprint in built_in().values():
        made[blueprint.name] = lambda site, blueprint=blueprint: build(blueprint, requested(blueprint, site))
    return made


def fits(kernel: str, site: nn.Module) -> bool:
    kinds = {blueprint.name: blueprint.kinds for blueprint in built_in().values()}
    return kernel not in kinds or type(site).__name__ in kinds[kernel]


HOSTS = {
    "mlp": (mlp, "2"),
    "mlp, inner site": (mlp, "6"),
    "cnn": (cnn, "1"),
    "cnn, inner site": (cnn, "5"),
    "head": (cnn, "8"),
}
CASES = [
    pytest.param(make, site, kernel, id=f"{name}: {kernel_name}")
    for name, (make, site) in HOSTS.items()
    for kernel_name, kernel in kernels().items()
    if fits(kernel_name, make().get_submodule(site))
]
OPTIMISERS = {
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
}


def loss(model: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(model(x), y, reduction="none")


def batches(count: int = STEPS) -> list[tuple[Tensor, Tensor]]:
    source = torch.Generator().manual_seed(5)
    return [(torch.randn(16, 1, 6, 6, generator=source), torch.arange(16) % 4) for _ in range(count)]


def bits(value: Any) -> Any:
    """``value`` with every tensor as its shape and bytes: 0.0 is not -0.0, and NaN equals itself."""
    if isinstance(value, Tensor):
        return tuple(value.shape), value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [bits(item) for item in value]
    return value


@dataclass
class Host:
    """A model in training, and all that a pass could leave behind in it."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    seen: list[Any] = field(default_factory=list)

    def traces(self) -> dict[str, Any]:
        modules = list(self.model.modules())
        return {
            "state": bits(self.model.state_dict(keep_vars=False)),
            "gradients": bits([parameter.grad for parameter in self.model.parameters()]),
            "optimizer": bits(self.optimizer.state_dict()),
            "generators": [bits(torch.get_rng_state()), random.getstate(), repr(np.random.get_state())],
            "modes": [module.training for module in modules],
            "hooks": [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in modules],
            "names": [name for name, _ in self.model.named_modules()],
        }

    def step(self, batch: Any) -> None:
        self.optimizer.zero_grad()
        losses = loss(self.model, batch)
        self.seen.append(bits(losses))
        losses.mean().backward()
        self.seen.append(self.traces())

    def update(self) -> None:
        self.optimizer.step()
        self.seen.append(self.traces())


def host(make: Callable[[], nn.Module], optimizer: str = "AdamW") -> Host:
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    model = make()
    torch.manual_seed(1)
    return Host(model, OPTIMISERS[optimizer](model.parameters()))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with generators.preserved():
        yield
    torch.set_num_threads(threads)


def sown(host: Host, site: str, make_kernel: Callable[[nn.Module], nn.Module], name: str = "site#1") -> LiveSeed:
    module = host.model.get_submodule(site)
    with generators.preserved():
        kernel = make_kernel(module)
    return LiveSeed(name, site_at(host.model, site, host.optimizer), kernel, host.optimizer, Stage.TRAINING)


def alone(make: Callable[[], nn.Module], optimizer: str = "AdamW") -> list[Any]:
    bare = host(make, optimizer)
    for batch in batches():
        bare.step(batch)
        bare.update()
    return bare.seen


@pytest.mark.parametrize("optimizer", OPTIMISERS)
@pytest.mark.parametrize(("make", "site", "make_kernel"), CASES)
def test_a_host_with_a_seed_in_training_equals_one_without_bit_for_bit(
    make: Callable[[], nn.Module], site: str, make_kernel: Callable[[nn.Module], nn.Module], optimizer: str
) -> None:
    grown = host(make, optimizer)
    seed = sown(grown, site, make_kernel)
    born = copy.deepcopy(seed.kernel.state_dict())
    for batch in batches():
        before = generators.capture()
        grown.step(batch)
        arrived = grown.traces()
        value, gradients = isolated_gradients(grown.model, loss, batch, seed.span, seed.kernel, before)
        assert grown.traces() == arrived
        assert gradients is not None
        assert all(parameter.grad is None for parameter in seed.kernel.parameters())
        if len(grown.seen) == 2 and make_kernel is not residual_kernel:
            # The effect is zero at birth, so this is the host's own loss: the same dropout, the same noise.
            host_loss = float(np.frombuffer(grown.seen[0][1], np.float32).mean(dtype=np.float64))
            assert value == pytest.approx(host_loss, rel=1e-6)
        assert seed.learn(grown.optimizer, 2.0, 1.0, gradients) is not None
        grown.update()
    seed.detach()
    assert grown.seen == alone(make, optimizer)
    moved = [not torch.equal(born[name], tensor) for name, tensor in seed.kernel.state_dict().items()]
    assert any(moved)


@pytest.mark.parametrize(("make", "site", "make_kernel"), CASES)
def test_gate_measurements_and_health_samples_leave_no_trace(
    make: Callable[[], nn.Module], site: str, make_kernel: Callable[[nn.Module], nn.Module]
) -> None:
    grown = host(make)
    sites = find_sites(grown.model, "auto", grown.optimizer)
    seed = sown(grown, site, make_kernel)
    for batch in batches():
        with Probe(sites, range(len(sites))) as probe:
            losses = loss(grown.model, batch)
            grown.optimizer.zero_grad()
            grown.seen.append(bits(losses))
            losses.mean().backward()
            probe.gradients()
        grown.seen.append(grown.traces())
        kernel = bits(seed.kernel.state_dict()), [module.training for module in seed.kernel.modules()]
        without, within = gate_losses(grown.model, loss, batches(2), seed.span, seed.kernel)
        gain = without - within
        assert torch.equal(gain, torch.zeros(32, dtype=torch.float64))
        assert kernel == (bits(seed.kernel.state_dict()), [module.training for module in seed.kernel.modules()])
        assert grown.traces() == grown.seen[-1]
        grown.update()
    assert grown.seen == alone(make)


def test_the_isolated_gradient_is_the_one_the_seed_would_get_at_full_effect() -> None:
    grown = host(cnn)
    seed = sown(grown, "1", lambda site: nn.Conv2d(1, 6, 3, stride=2))
    (batch,) = batches(1)
    before = generators.capture()
    grown.step(batch)
    value, gradients = isolated_gradients(grown.model, loss, batch, seed.span, seed.kernel, before)
    handle = seed.span.exit.register_forward_hook(Effect(seed.kernel), with_kwargs=True)
    generators.restore(before)
    attached = loss(grown.model, batch).mean()
    expected = torch.autograd.grad(attached, list(seed.kernel.parameters()))
    handle.remove()
    assert gradients is not None
    assert value == float(attached.detach())
    assert bits(gradients) == bits(list(expected))


def test_a_gain_is_the_loss_without_the_seed_minus_that_with_it() -> None:
    grown = host(mlp)
    seed = sown(grown, "6", lambda site: nn.Linear(12, 12))
    (batch,) = batches(1)
    without, within = gate_losses(grown.model, loss, [batch], seed.span, seed.kernel)
    gain = without - within
    grown.model.eval()
    without = loss(grown.model, batch)
    seed.attach(lambda: 1.0)
    assert torch.equal(gain, without.double() - loss(grown.model, batch).double())
    assert gain.abs().min() > 0


def test_a_blending_seed_is_part_of_the_host_that_another_seeds_pass_leaves_alone() -> None:
    grown = host(mlp)
    blending = sown(grown, "2", residual_kernel)
    blending.attach(lambda: 0.5)
    seed = sown(grown, "6", residual_kernel, "site#2")
    (batch,) = batches(1)
    before = generators.capture()
    grown.step(batch)
    arrived = grown.traces(), bits(blending.kernel.state_dict()), bits([p.grad for p in blending.kernel.parameters()])
    assert blending.kernel[1].num_batches_tracked == 1
    isolated_gradients(grown.model, loss, batch, seed.span, seed.kernel, before)
    gate_losses(grown.model, loss, [batch], seed.span, seed.kernel)
    now = grown.traces(), bits(blending.kernel.state_dict()), bits([p.grad for p in blending.kernel.parameters()])
    assert now == arrived
    assert seed.kernel[1].num_batches_tracked == 1


def test_negative_zeros_of_the_host_stay_negative() -> None:
    model = nn.Sequential(nn.Linear(2, 3))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    model[0].register_forward_hook(lambda module, args, y: -y)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kernel = nn.Linear(2, 3)
    for parameter in kernel.parameters():
        nn.init.zeros_(parameter)
    seed = LiveSeed("0#1", site_at(model, "0"), kernel, optimizer, Stage.TRAINING)
    x = -torch.ones(4, 2)
    own = bits(model(x))
    assert own == bits(torch.full((4, 3), -0.0))
    isolated_gradients(model, lambda model, batch: model(batch).sum(1), x, seed.span, seed.kernel, generators.capture())
    assert bits(model(x)) == own
    seed.attach(lambda: 0.5)
    seed.detach()
    assert bits(model(x)) == own


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_seed_whose_loss_is_not_finite_gets_no_gradient_and_the_host_does_not_notice(value: float) -> None:
    grown = host(mlp)
    seed = sown(grown, "2", lambda site: nn.Linear(36, 12))
    with torch.no_grad():
        seed.kernel.bias.fill_(value)
    (batch,) = batches(1)
    before = generators.capture()
    grown.step(batch)
    _, gradients = isolated_gradients(grown.model, loss, batch, seed.span, seed.kernel, before)
    assert gradients is None
    assert grown.traces() == grown.seen[-1]


def test_a_site_that_the_loss_does_not_see_gives_a_seed_zeros() -> None:
    grown = host(mlp)
    seed = sown(grown, "2", residual_kernel)
    value, gradients = isolated_gradients(
        grown.model,
        lambda model, batch: model(batch[0]).detach().sum(1),
        batches(1)[0],
        seed.span,
        seed.kernel,
        generators.capture(),
    )
    assert value != 0
    assert gradients is not None
    assert not any(gradient.any() for gradient in gradients)


def test_a_loss_that_raises_in_the_isolated_pass_leaves_no_trace() -> None:
    grown = host(mlp)
    seed = sown(grown, "2", residual_kernel)
    before = generators.capture()
    (batch,) = batches(1)
    grown.step(batch)

    def failing(model: nn.Module, batch: Any) -> Tensor:
        loss(model.eval(), batch)
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        isolated_gradients(grown.model, failing, batch, seed.span, seed.kernel, before)
    assert grown.traces() == grown.seen[-1]


def test_no_gradient_passes_the_site_in_an_isolated_pass() -> None:
    grown = host(mlp)
    seed = sown(grown, "6", residual_kernel)
    (batch,) = batches(1)
    with isolated(seed.span, seed.kernel, grad=True):
        mean = loss(grown.model, batch).mean()
    names, parameters = zip(*grown.model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(mean, parameters, allow_unused=True)
    assert [name for name, gradient in zip(names, gradients, strict=True) if gradient is not None] == [
        "8.weight",
        "8.bias",
    ]
