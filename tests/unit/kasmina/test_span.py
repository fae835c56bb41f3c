"""A seed at a span from one module to another: right, or refused in words, and never silently wrong."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from esper.errors import Unsupported
from esper.kasmina import generators
from esper.kasmina.effect import Effect, attach
from esper.kasmina.seed.isolation import gate_losses, isolated_gradients
from esper.kasmina.seed.seed import LiveSeed, holds_seeds, strip
from esper.kasmina.sites import Site
from esper.kasmina.span import Span

pytestmark = pytest.mark.usefixtures("one_thread")


class Block(nn.Module):
    """Linear → ReLU → Linear. ``way`` lets a test go through it otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.entry, self.act, self.exit = nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)
        self.way: Callable[[Block, Tensor], Tensor] = Block.straight

    def straight(self, x: Tensor) -> Tensor:
        y: Tensor = self.exit(self.act(self.entry(x)))
        return y

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, x)


class Host:
    """before → block → after, with a seed at the block's span."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.block = Block()
        self.model = nn.Sequential(nn.Linear(5, 4), self.block, nn.Tanh(), nn.Linear(3, 2))
        self.kernel = nn.Sequential(nn.Linear(4, 2), nn.GELU(), nn.Linear(2, 3))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        span = Span(self.block.entry, self.block.exit, self.block)
        self.site = Site("1", "Span", (4, 3), None, span, parameter=self.block.exit.weight)
        self.seed = LiveSeed("1#1", self.site, self.kernel, self.optimizer)
        self.x = torch.randn(7, 5)

    def expected(self, x: Tensor, alpha: float) -> Tensor:
        """What the grown host gives, written out."""
        h = self.model[0](x)
        y = self.block.straight(h) + alpha * self.kernel(h)
        out: Tensor = self.model[3](self.model[2](y))
        return out

    def gradients(self, out: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(out.square().sum(), [*self.model.parameters(), *self.kernel.parameters()]))


@pytest.fixture
def host() -> Host:
    return Host()


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    out: Tensor = model(batch)
    return out.square().sum(1)


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def hooks(model: nn.Module) -> int:
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in model.modules())


def test_the_kernel_sees_the_entrys_input_and_its_effect_is_added_to_the_exits_output(host: Host) -> None:
    expected, gradients = host.expected(host.x, 0.5), host.gradients(host.expected(host.x, 0.5))
    host.seed.attach(lambda: 0.5)
    assert torch.equal(host.model(host.x), expected)
    assert same(host.gradients(host.model(host.x)), gradients)


def test_an_isolated_pass_has_the_seeds_gradient_and_leaves_the_host_bit_for_bit(host: Host) -> None:
    expected = torch.autograd.grad(loss_at_full_effect(host), list(host.kernel.parameters()))
    loss(host.model, host.x).mean().backward()
    before = [each.clone() for each in (*host.model.parameters(), host.model(host.x))]
    grads = [each.grad.clone() for each in host.model.parameters() if each.grad is not None]
    value, gradients = isolated_gradients(host.model, loss, host.x, host.seed.span, host.kernel, generators.capture())
    assert value == float(loss_at_full_effect(host).detach())
    assert gradients is not None
    assert same(gradients, list(expected))
    assert same([*host.model.parameters(), host.model(host.x)], before)
    assert same([each.grad for each in host.model.parameters() if each.grad is not None], grads)
    assert hooks(host.model) == 0


def loss_at_full_effect(host: Host) -> Tensor:
    return host.expected(host.x, 1.0).square().sum(1).mean()


def test_a_gain_is_that_of_the_span(host: Host) -> None:
    without, within = gate_losses(host.model, loss, [host.x], host.seed.span, host.kernel)
    gain = without - within
    with torch.no_grad():
        now = host.expected(host.x, 1.0).square().sum(1)
        assert torch.equal(gain, loss(host.model, host.x).double() - now.double())


def test_a_seed_that_was_culled_or_stripped_leaves_nothing(host: Host) -> None:
    before = host.model(host.x)
    host.seed.attach(lambda: 0.5)
    assert hooks(host.model) == 4
    assert holds_seeds(host.model)
    host.seed.detach()
    assert hooks(host.model) == 0
    host.seed.fossilise()
    strip(host.model)
    assert hooks(host.model) == 0
    assert not holds_seeds(host.model)
    assert not any(each._forward_hooks_always_called for each in host.model.modules())
    assert torch.equal(host.model(host.x), before)


def test_a_copy_of_the_model_carries_its_own_input(host: Host) -> None:
    expected = host.expected(host.x, 1.0)
    host.seed.fossilise()
    twin = copy.deepcopy(host.model)
    twin[1].way = lambda block, x: host.model(host.x).new_zeros(7, 3) + block.straight(x)  # the original runs inside
    assert torch.equal(twin(host.x), expected)


def test_a_seed_that_is_switched_off_takes_its_input_all_the_same(host: Host) -> None:
    without = host.model(host.x)
    host.seed.attach(lambda: 1.0)
    with host.seed.off():
        assert torch.equal(host.model(host.x), without)
        assert torch.equal(host.model(host.x), without)


def test_a_seed_in_training_at_a_span_learns_beside_one_that_blends_there(host: Host) -> None:
    host.seed.attach(lambda: 1.0)
    other = nn.Linear(4, 3)
    h = host.model[0](host.x).detach()
    y = (straight(host, h) + host.kernel(h)).detach() + other(h)
    expected = torch.autograd.grad(host.model[3](host.model[2](y)).square().sum(1).mean(), list(other.parameters()))
    _, gradients = isolated_gradients(host.model, loss, host.x, host.seed.span, other, generators.capture())
    assert gradients is not None
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(gradients, expected, strict=True))


def straight(host: Host, h: Tensor) -> Tensor:
    """The block's own way past its hooks."""
    entry, exit = host.block.entry, host.block.exit
    return nn.functional.linear(torch.relu(nn.functional.linear(h, entry.weight, entry.bias)), exit.weight, exit.bias)


# What goes wrong


class Broken(Exception):
    pass


@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt])
def test_an_input_that_an_exception_left_behind_is_never_used(host: Host, error: type[BaseException]) -> None:
    host.seed.attach(lambda: 1.0)

    def breaking(block: Block, x: Tensor) -> Tensor:
        block.entry(x)
        raise error

    host.block.way = breaking
    with pytest.raises(error):
        host.model(host.x)
    host.block.way = Block.straight
    other = torch.randn(7, 5)
    host_alone = Host()
    assert torch.equal(host.model(other), host_alone.expected(other, 1.0))
    host.block.way = breaking
    with pytest.raises(error):
        host.model(host.x)
    host.block.way = lambda block, x: block.exit(block.act(torch.zeros(7, 6)))
    with pytest.raises(Unsupported, match="left, at its Linear, without having been entered in the same pass"):
        host.model(other)


WAYS: dict[str, tuple[Callable[[Block, Tensor], Any], str]] = {
    "the exit twice": (
        lambda b, x: b.exit(b.act(b.entry(x))) + b.exit(b.act(x.new_zeros(7, 6))),
        "left, at its Linear",
    ),
    "the entry twice": (lambda b, x: b.exit(b.act(b.entry(x) + b.entry(2 * x))), "entered again, at its Linear"),
    "the exit first": (lambda b, x: b.exit(x.new_zeros(7, 6)) + b.exit(b.entry(x)), "left, at its Linear"),
    "itself within itself": (
        lambda b, x: b.exit(b.act(b.entry(x) + nested(b, x).sum())),
        "left, at its Linear, without having been entered",
    ),
    "the input in place": (lambda b, x: b.exit(b.act(b.entry(x)) + x.mul_(2).sum()), "changed in place within it"),
    "no tensor": (lambda b, x: b.entry({"x": x}), "called with no tensor"),
}


def nested(block: Block, x: Tensor) -> Tensor:
    block.way = Block.straight
    y: Tensor = block(x)
    return y


@pytest.mark.parametrize("way", WAYS)
def test_another_way_through_a_span_is_an_error_and_no_wrong_answer(host: Host, way: str) -> None:
    host.block.way, words = WAYS[way]
    host.seed.attach(lambda: 1.0)
    with pytest.raises(Unsupported, match=words):
        host.model(host.x)
    host.block.way = Block.straight
    assert torch.equal(host.model(host.x), Host().expected(host.x, 1.0))


def test_a_span_that_is_passed_twice_in_a_row_is_right_each_time(host: Host) -> None:
    host.block.way = lambda block, x: block.straight(x) + block.straight(3 * x)
    host.seed.attach(lambda: 1.0)
    h = host.model[0](host.x)
    y = straight(host, h) + host.kernel(h) + straight(host, 3 * h) + host.kernel(3 * h)
    assert torch.allclose(host.model(host.x), host.model[3](host.model[2](y)), atol=1e-6)


@pytest.mark.parametrize("before", ["nothing", "a pass", "a pass that broke off"])
def test_a_part_of_a_span_outside_of_its_module_is_an_error(host: Host, before: str) -> None:
    host.seed.attach(lambda: 1.0)
    if before == "a pass":
        host.model(host.x)
    elif before == "a pass that broke off":
        host.block.way = lambda block, x: block.exit(block.entry(x)[:, :5])
        with pytest.raises(RuntimeError, match="cannot be multiplied"):
            host.model(host.x)
    with pytest.raises(Unsupported, match="left, at its Linear, without having been entered"):
        host.block.exit(torch.randn(7, 6))
    with pytest.raises(Unsupported, match="was run outside of the module that holds it, from its Linear on"):
        host.block.entry(torch.randn(7, 4))


@pytest.mark.parametrize("outside", [False, True], ids=["entry is within", "exit is within"])
def test_a_span_may_begin_or_end_with_the_module_that_holds_it(host: Host, outside: bool) -> None:
    block = host.block
    span = Span(block.entry, block, block) if outside else Span(block, block.exit, block)
    attach(Effect(host.kernel), span)
    assert torch.equal(host.model(host.x), Host().expected(host.x, 1.0))


# Activation checkpointing


def checkpointed(host: Host, part: str, reentrant: bool) -> Callable[[Tensor], Tensor]:
    """The host with activations of a part of it computed again in backward."""
    block = host.block

    def again(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        y: Tensor = checkpoint(function, x, use_reentrant=reentrant)
        return y

    if part == "the module that holds it":
        return lambda x: host.model[3](host.model[2](again(block, host.model[0](x))))
    ways: dict[str, Callable[[Block, Tensor], Tensor]] = {
        "the span": lambda _, x: again(block.straight, x),
        "its entry": lambda _, x: block.exit(block.act(again(block.entry, x))),
        "its exit": lambda _, x: again(lambda h: block.exit(block.act(h)), block.entry(x)),
        "from its input on": lambda _, x: block.exit(again(lambda h: block.act(block.entry(2 * h)), x)),
    }
    block.way = ways[part]
    return host.model


PARTS = ["the module that holds it", "the span", "its entry", "its exit", "from its input on"]
REFUSED = r"checkpoint|without having been entered|was run outside|Checkpointing is not compatible with \.grad\(\)"


def learned(host: Host, forward: Callable[[Tensor], Tensor], isolated: bool) -> list[Tensor]:
    """The gradients of seed and host, or those of an isolated pass."""
    host.optimizer.zero_grad()
    if not isolated:
        host.seed.attach(lambda: 1.0)
        forward(host.x).square().sum().backward()  # type: ignore[no-untyped-call]
        return [each.grad for each in (*host.kernel.parameters(), *host.model.parameters()) if each.grad is not None]
    _, gradients = isolated_gradients(
        host.model,
        lambda _, x: forward(x).square().sum(1),
        host.x,
        host.seed.span,
        host.kernel,
        generators.capture(),
    )
    assert gradients is not None
    return gradients


@pytest.mark.parametrize("isolated", [False, True], ids=["in the host", "isolated"])
@pytest.mark.parametrize("reentrant", [False, True], ids=["", "reentrant"])
@pytest.mark.parametrize("part", PARTS)
def test_a_checkpointed_span_is_right_or_refused(host: Host, part: str, reentrant: bool, isolated: bool) -> None:
    plain = Host()
    if part == "from its input on":
        plain.block.way = lambda block, x: block.exit(block.act(block.entry(2 * x)))
    expected = learned(plain, plain.model, isolated)
    forward = checkpointed(host, part, reentrant)
    refusal: Exception | None = None
    try:
        found = learned(host, forward, isolated)
    except (Unsupported, RuntimeError) as error:
        refusal, found = error, expected
    assert same(found, expected)
    assert refusal is None or re.search(REFUSED, str(refusal))
    if part == "the module that holds it":
        assert (refusal is not None) == (reentrant and isolated)  # reentrant ones give no gradient of a parameter alone
    host.block.way = Block.straight
    host.seed.attach(lambda: 1.0)
    assert torch.equal(host.model(host.x), Host().expected(host.x, 1.0))
