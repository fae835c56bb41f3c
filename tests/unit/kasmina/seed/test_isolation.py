"""The isolated pass: a seed learns from the task's gradient, and the host cannot tell."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from esper.kasmina import generators
from esper.kasmina.seed.isolation import gate_losses, isolated, isolated_gradients
from esper.kasmina.span import Span

pytestmark = pytest.mark.usefixtures("one_thread")


class Host(nn.Module):
    """One linear layer with a seed's kernel beside it, in whose forward chance and a buffer have a part."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.drop, self.norm = nn.Linear(3, 2), nn.Dropout(0.5), nn.BatchNorm1d(2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.layer(self.drop(x)))
        return y


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    y: Tensor = model(batch)
    return y.square().sum(1) * torch.rand(())


class Pass:
    """A host after its own call of the loss."""

    def __init__(self) -> None:
        self.host = Host()
        self.span = Span(self.host.layer, self.host.layer, self.host.layer)
        self.kernel = nn.Linear(3, 2)
        self.x = torch.randn(5, 3)
        self.before = generators.capture()
        own = loss(self.host, self.x).mean()
        self.own = float(own.detach())
        own.backward()

    def isolated(self, loss=loss):
        return isolated_gradients(self.host, loss, self.x, self.span, self.kernel, self.before)


@pytest.fixture
def run() -> Pass:
    return Pass()


def test_the_span_gives_the_hosts_output_without_its_gradient_and_the_kernels_with_it(run: Pass) -> None:
    x = run.x.clone().requires_grad_()
    with isolated(run.span, run.kernel, grad=True):
        y = run.host.layer(x)
    assert torch.equal(y, (run.host.layer(x) + run.kernel(x)).detach())
    gradients = torch.autograd.grad(y.sum(), [x, *run.host.layer.parameters(), run.kernel.bias], allow_unused=True)
    assert gradients[:3] == (None, None, None)
    assert torch.equal(gradients[3], torch.tensor([5.0, 5.0]))
    assert torch.equal(run.host.layer(x), nn.functional.linear(x, run.host.layer.weight, run.host.layer.bias))


def test_gradients_are_recorded_only_where_they_are_wanted_and_as_before_afterwards(run: Pass) -> None:
    with isolated(run.span, run.kernel, grad=False):
        assert not run.host.layer(run.x).requires_grad
    assert torch.is_grad_enabled()
    with torch.no_grad(), isolated(run.span, run.kernel, grad=True):
        assert run.host.layer(run.x).requires_grad


def test_the_host_is_as_before_when_the_kernel_fails(run: Pass) -> None:
    with pytest.raises(RuntimeError, match="broken"), isolated(run.span, run.kernel, grad=True):
        raise RuntimeError("broken")
    assert not run.host.layer._forward_hooks
    assert not run.host.layer._forward_pre_hooks


def test_the_pass_sees_the_chance_of_the_hosts_own_and_leaves_no_trace(run: Pass) -> None:
    state = {name: each.clone() for name, each in run.host.state_dict().items()}
    grads = [each.grad.clone() for each in run.host.parameters()]
    chance = torch.get_rng_state()
    first, _ = run.isolated()
    again, gradients = run.isolated()
    assert again == first
    assert [each.shape for each in gradients] == [(2, 3), (2,)]
    assert all(torch.equal(each, state[name]) for name, each in run.host.state_dict().items())
    assert all(torch.equal(each.grad, grad) for each, grad in zip(run.host.parameters(), grads, strict=True))
    assert torch.equal(torch.get_rng_state(), chance)
    assert all(each.grad is None for each in run.kernel.parameters())


def test_a_kernel_that_does_nothing_has_the_hosts_own_loss_chance_included(run: Pass) -> None:
    for each in run.kernel.parameters():
        nn.init.zeros_(each)
    assert run.isolated()[0] == run.own


def test_a_loss_that_is_not_finite_has_no_gradients(run: Pass) -> None:
    value, gradients = run.isolated(lambda model, batch: model(batch).sum(1) * math.inf)
    assert not math.isfinite(value)
    assert gradients is None


def test_a_loss_that_the_site_does_not_reach_has_the_gradient_zero(run: Pass) -> None:
    value, gradients = run.isolated(lambda model, batch: torch.ones(len(batch)))
    assert value == 1
    assert [each.tolist() for each in gradients] == [[[0.0] * 3] * 2, [0.0] * 2]


def test_parameters_that_do_not_learn_have_no_gradient(run: Pass) -> None:
    run.kernel.weight.requires_grad_(False)
    _, gradients = run.isolated()
    assert [each.shape for each in gradients] == [(2,)]


def test_gate_losses_are_those_of_each_example_without_the_kernel_and_with_it(run: Pass) -> None:
    def plain(model, batch):
        return model.layer(batch).square().sum(1)

    without, with_it = gate_losses(run.host, plain, [run.x[:2], run.x[2:]], run.span, run.kernel)
    y = run.host.layer(run.x)
    assert (without.dtype, with_it.dtype) == (torch.float64, torch.float64)
    assert without.tolist() == pytest.approx(y.square().sum(1).tolist())
    assert with_it.tolist() == pytest.approx((y + run.kernel(run.x)).square().sum(1).tolist())
