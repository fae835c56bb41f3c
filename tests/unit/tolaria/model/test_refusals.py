"""What would go wrong without a word is refused before a run begins: by name, and with the remedy."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

import esper
from esper.errors import Unsupported
from tests.support.runs.training import adam, host, loss


@pytest.fixture
def one_rank(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def refused(home: Path, words: str, model: Any = None, optimizer: Any = None, loss: Any = loss, **more: Any) -> None:
    """``esper.start`` refuses these in one line that has ``words``, and begins no run."""
    model = host() if model is None else model
    with pytest.raises(Unsupported, match=words) as caught:
        esper.start(model, adam(model) if optimizer is None else optimizer, loss, home=home, **more)
    assert "\n" not in str(caught.value)
    assert not (home / "log.db").exists()


def test_several_ranks_are_refused_with_a_process_group_or_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused(tmp_path, r"there are 2 ranks \(torchrun, WORLD_SIZE\).*start the program as one process")


def test_one_rank_is_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_rank: None) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    esper.start(model := host(), adam(model), loss, home=tmp_path).close()


def test_wrappers_for_several_devices_are_refused(tmp_path: Path, one_rank: None) -> None:
    refused(
        tmp_path,
        "the model is wrapped in DistributedDataParallel.*pass the module inside it",
        DistributedDataParallel(host()),
    )
    refused(tmp_path, "the model is wrapped in DataParallel", DataParallel(host()))
    inside = nn.ModuleDict({"body": DistributedDataParallel(nn.Linear(2, 2)), "head": nn.Linear(2, 2)})
    refused(tmp_path, "'body' in the model is wrapped in DistributedDataParallel", inside)


def test_sharded_parameters_are_refused(tmp_path: Path, one_rank: None) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    refused(tmp_path, "wrapped in FSDPModule|wrapped in FSDP", fully_shard(model, mesh=mesh))


def in_place() -> nn.Module:
    model = host()
    model.compile()
    return model


def test_compiled_models_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, "the model is compiled", torch.compile(host()))
    refused(tmp_path, "the model is compiled", in_place())
    refused(tmp_path, "'1' in the model is compiled", nn.Sequential(nn.Linear(4, 4), torch.compile(nn.Linear(4, 1))))  # type: ignore[arg-type]


class Criterion:
    """A loss that is an object, with a compiled ``__call__``, and a compiled method."""

    @torch.compile
    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        return loss(model, batch)

    @torch.compile
    def method(self, model: nn.Module, batch: Any) -> Tensor:
        return loss(model, batch)


def with_factor(factor: float, model: nn.Module, batch: Any) -> Tensor:
    return factor * loss(model, batch)


@pytest.mark.parametrize(
    "compiled",
    [
        lambda: torch.compile(loss),
        lambda: functools.partial(torch.compile(with_factor), 2.0),
        Criterion,
        lambda: Criterion().method,
        lambda: torch.compile(nn.Module()),
    ],
    ids=["function", "partial", "object", "method", "module"],
)
def test_a_compiled_loss_is_refused(tmp_path: Path, compiled: Callable[[], Any]) -> None:
    refused(tmp_path, "the loss is compiled.*pass the plain function", loss=compiled())


def test_a_loss_that_calls_a_compiled_copy_of_the_model_is_refused(tmp_path: Path) -> None:
    model = host()
    fast = torch.compile(model)

    def through_it(_: nn.Module, batch: Any) -> Tensor:
        return loss(fast, batch)  # type: ignore[arg-type]

    refused(tmp_path, "the loss calls a compiled copy of the model", model, loss=through_it)


def test_a_loss_may_use_compiled_functions_of_what_the_model_gives(tmp_path: Path) -> None:
    criterion = torch.compile(lambda a, b: (a - b).square())

    def plain(model: nn.Module, batch: Any) -> Tensor:
        result: Tensor = criterion(model(batch[0]), batch[1])
        return result

    esper.start(model := host(), adam(model), plain, home=tmp_path).close()


class FabricOptimizer:
    """As Lightning's Fabric wraps one: a class of its own name that holds the other."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.__dict__.update({k: v for k, v in optimizer.__dict__.items() if k not in ("state_dict", "step")})
        self.__class__ = type("FabricAdam", (self.__class__, optimizer.__class__), {})
        self._optimizer = optimizer


def test_wrapped_optimisers_are_refused_by_name_with_the_one_inside(tmp_path: Path) -> None:
    model = host()
    wrapped = Accelerator(cpu=True).prepare_optimizer(adam(model))
    refused(tmp_path, "wrapped in AcceleratedOptimizer.*pass the Adam inside it", model, wrapped)
    refused(tmp_path, "wrapped in FabricAdam.*pass the Adam inside it", model, FabricOptimizer(adam(model)))
    refused(tmp_path, "dict is not a torch optimiser", model, {})
    refused(
        tmp_path,
        "StepLR is not a torch optimiser",
        model,
        torch.optim.lr_scheduler.StepLR(adam(model), 1),
    )


def test_a_model_that_learns_nothing_is_refused(tmp_path: Path) -> None:
    model = host()
    optimizer = adam(model)
    refused(tmp_path, "every parameter of the model is frozen", model.requires_grad_(False), optimizer)
    refused(tmp_path, "the optimiser has none of the model's parameters", host(), optimizer)


def test_a_process_group_of_two_is_refused(tmp_path: Path) -> None:
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        refused(tmp_path, "there are 2 ranks")
    finally:
        torch.distributed.destroy_process_group()
