"""Optimisers of seeds follow the host's group, whatever its class and scheduler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

from esper.errors import Unsupported
from esper.kasmina.seed.optimizers import check_supported, group_of, make_like, sync

Make = Callable[[Any], optim.Optimizer]


def has_momentum(optimizer: optim.Optimizer) -> bool:
    return bool({"momentum", "betas"} & optimizer.defaults.keys())


OPTIMISERS: dict[str, Make] = {
    "SGD": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "Adam": lambda p: optim.Adam(p, lr=0.01, betas=(0.8, 0.95), amsgrad=True),
    "AdamW": lambda p: optim.AdamW(p, lr=0.01, weight_decay=0.3),
    "RMSprop": lambda p: optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "Adagrad": lambda p: optim.Adagrad(p, lr=0.1, lr_decay=0.1, initial_accumulator_value=0.5),
    "NAdam": lambda p: optim.NAdam(p, lr=0.01, momentum_decay=0.01),
    "Adamax": lambda p: optim.Adamax(p, lr=0.01),
    "Adadelta": lambda p: optim.Adadelta(p, lr=0.5, rho=0.8),
    "RAdam": lambda p: optim.RAdam(p, lr=0.01),
    "ASGD": lambda p: optim.ASGD(p, lr=0.01, lambd=1e-3),
    "Rprop": lambda p: optim.Rprop(p, lr=0.01, etas=(0.4, 1.3)),
    "Adafactor": lambda p: optim.Adafactor(p, lr=0.01, d=2.0),
    "tensor lr": lambda p: optim.Adam(p, lr=torch.tensor(0.01), foreach=False),
    "fused": lambda p: optim.AdamW(p, lr=0.01, fused=True),
}
SCHEDULERS: dict[str, Callable[[optim.Optimizer], Any]] = {
    "none": lambda _: None,
    "OneCycleLR": lambda o: optim.lr_scheduler.OneCycleLR(o, 0.5, 20, cycle_momentum=has_momentum(o)),
    "CosineAnnealingLR": lambda o: optim.lr_scheduler.CosineAnnealingLR(o, 10),
    "LambdaLR": lambda o: optim.lr_scheduler.LambdaLR(o, [lambda step: 0.9**step] * len(o.param_groups)),
    "MultiStepLR": lambda o: optim.lr_scheduler.MultiStepLR(o, [2, 4]),
    "LinearLR": lambda o: optim.lr_scheduler.LinearLR(o),
}


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.linspace(-1, 1, max(1, int(torch.tensor(shape).prod()))).reshape(shape))


def push(*parameters: nn.Parameter) -> None:
    for each in parameters:
        each.grad = torch.sin(each.detach() * 7 + 1)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_seed_with_the_hosts_parameters_would_move_as_the_host_does(name: str, scheduler: str) -> None:
    host, own = [parameter(3, 2), parameter(4)], [parameter(3, 2), parameter(4)]
    optimizer = OPTIMISERS[name]([{"params": [parameter(2)], "lr": 0.7}, {"params": host}])
    check_supported(optimizer)
    schedule = SCHEDULERS[scheduler](optimizer)
    seed = make_like(optimizer, group_of(optimizer, host[0]), own)
    assert type(seed) is type(optimizer)
    for _ in range(6):
        push(*host, *own, optimizer.param_groups[0]["params"][0])
        sync(seed, group_of(optimizer, host[0]), 1.0)
        optimizer.step()
        seed.step()
        if schedule is not None:
            schedule.step()
    for mine, its in zip(own, host, strict=True):
        assert torch.equal(mine, its)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_the_seeds_rate_is_a_factor_times_the_groups_and_never_touches_it(name: str) -> None:
    host = parameter(3, 2)
    optimizer = OPTIMISERS[name]([host])
    rate = float(optimizer.param_groups[0]["lr"])
    before = {key: repr(value) for key, value in optimizer.param_groups[0].items() if key != "params"}
    seed = make_like(optimizer, optimizer.param_groups[0], [parameter(2, 2)])
    for factor in (3.0, 0.5, 0.5):
        sync(seed, group_of(optimizer, host), factor)
        assert float(seed.param_groups[0]["lr"]) == pytest.approx(rate * factor)
    after = {key: repr(value) for key, value in optimizer.param_groups[0].items() if key != "params"}
    assert after == before
    assert len(optimizer.param_groups) == 1
    assert all(
        value is not seed.param_groups[0]["lr"]
        for value in [optimizer.param_groups[0]["lr"]]
        if isinstance(value, Tensor)
    )


def test_changes_of_any_hyper_parameter_reach_the_seed() -> None:
    host = parameter(3)
    optimizer = optim.AdamW([host], lr=0.1)
    seed = make_like(optimizer, optimizer.param_groups[0], [parameter(2)])
    optimizer.param_groups[0].update(weight_decay=0.7, betas=(0.5, 0.6), note="mine")
    sync(seed, group_of(optimizer, host), 2.0)
    group = seed.param_groups[0]
    assert (group["weight_decay"], group["betas"], group["note"], group["lr"]) == (0.7, (0.5, 0.6), "mine", 0.2)


def test_the_group_is_found_after_the_optimiser_was_loaded() -> None:
    first, second = parameter(2), parameter(3)
    optimizer = optim.SGD([{"params": [first]}, {"params": [second], "lr": 0.3}], lr=0.1)
    optimizer.load_state_dict(optimizer.state_dict())
    assert group_of(optimizer, second) is optimizer.param_groups[1]
    with pytest.raises(Unsupported, match="not in the optimizer"):
        group_of(optimizer, parameter(2))


def test_named_parameters_of_the_host_are_not_the_seeds() -> None:
    optimizer = optim.SGD([("weight", parameter(3)), ("bias", parameter(1))], lr=0.1)
    seed = make_like(optimizer, optimizer.param_groups[0], [parameter(2)])
    sync(seed, optimizer.param_groups[0], 1.0)
    assert "param_names" not in seed.param_groups[0]
    push(*seed.param_groups[0]["params"])
    seed.step()


def test_an_optimiser_of_ones_own_with_any_keywords_is_served() -> None:
    class Mine(optim.SGD):
        def __init__(self, params: Any, **rest: Any) -> None:
            super().__init__(params, **{"lr": 0.2, **rest})

    optimizer = Mine([parameter(3)], momentum=0.5)
    check_supported(optimizer)
    seed = make_like(optimizer, optimizer.param_groups[0], [parameter(2)])
    assert isinstance(seed, Mine)
    assert seed.param_groups[0]["momentum"] == 0.5


def test_lbfgs_is_refused_in_one_line() -> None:
    with pytest.raises(Unsupported, match="LBFGS needs a closure") as caught:
        check_supported(optim.LBFGS([parameter(2)]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [lambda p: optim.SparseAdam(p), lambda p: optim.Muon(p)], ids=["SparseAdam", "Muon"])
def test_an_optimiser_that_cannot_move_a_seed_is_refused_in_one_line(make: Make) -> None:
    with pytest.raises(Unsupported, match="cannot serve a seed") as caught:
        check_supported(make([parameter(2, 2)]))
    assert "\n" not in str(caught.value)


def test_what_is_no_optimiser_is_refused() -> None:
    with pytest.raises(Unsupported, match="not a torch optimiser"):
        check_supported(object())  # type: ignore[arg-type]


def test_the_check_draws_nothing_and_changes_nothing() -> None:
    host = parameter(3)
    optimizer = optim.Adam([host], lr=0.1)
    state = torch.get_rng_state()
    check_supported(optimizer)
    assert torch.equal(torch.get_rng_state(), state)
    assert not optimizer.state
    assert host.grad is None
