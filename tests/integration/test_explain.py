"""Real runs that grow badly, and what they are told: each finding is provoked, and given where it belongs alone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import esper
from esper.log.port import Position, Record
from esper.log.sqlite.log import SqliteLog
from esper.tolaria.telemetry.cores import waited
from tests.support.command import runner
from tests.support.runs.training import Loop, examples, settings

pytestmark = pytest.mark.usefixtures("one_thread")


def told(home: Path, **more: Any) -> dict[str, str]:
    """The findings of a run: what is to be changed, by name."""
    loop = Loop(home, **more)
    loop.begin()
    loop.go()
    with esper.connect(home) as connection:
        return {each.name: each.change for each in connection.run("run").advice()}


def few() -> Any:
    return DataLoader(examples(24, seed=2), batch_size=8)


def many() -> Any:
    return DataLoader(examples(8000, seed=2), batch_size=1000)


def bilinear(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    result: Tensor = (model[0](x[:, :2], x[:, 2:]) - y).square()
    return result


def learnt() -> nn.Module:
    """A host that all but knows the answer: 1.9 |x0| + 0.3 x2."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        first, last = model[0].weight, model[2].weight
        first[0, 0], first[1, 0], first[2, 2], first[3, 2] = 1.0, -1.0, 1.0, -1.0
        last[0] = torch.tensor([1.9, 1.9, 0.3, -0.3, 0, 0, 0, 0])
    return model


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))


def wide() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 1))


def whole() -> Any:
    return DataLoader(examples(64), batch_size=64)


def unlike() -> Any:
    x = 3 * torch.randn(400, 4, generator=torch.Generator().manual_seed(2))
    return DataLoader(TensorDataset(x, 2 * x[:, :1].abs()), batch_size=100)


def steady(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=3e-3)


def still(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=1e-4)


PROVOKED: dict[str, tuple[dict[str, Any], str]] = {
    "no gate data": ({"gate": lambda: None}, "gate_data="),
    "no site": ({"model": lambda: nn.Sequential(nn.Bilinear(2, 2, 1)), "loss": bilinear}, "sites="),
    "warm-up": ({"settings": settings(policy={"warmup": 1000})}, "policy.warmup=10"),
    "no budget": ({"settings": settings(policy={"budget": 0.01})}, "policy.budget="),
    "seeds used up": ({"settings": settings(policy={"seeds": 1}), "epochs": 12}, "policy.seeds=2"),
    "sites rest": (
        {"settings": settings(policy={"embargo": 5000}, verdict={"delta": 10.0}), "epochs": 12},
        "policy.embargo=1250",
    ),
    "too few gate examples": (
        {
            "gate": few,
            "settings": settings(gate={"folds": 3}, verdict={"alpha": 0.001, "measurements": 4}),
            "epochs": 8,
        },
        "gate_data of some",
    ),
    "judged too early": (
        {
            "model": plain,
            "optimizer": still,
            "loader": whole,
            "settings": settings(training={"steps": 100, "warmup": 1, "learning_rate": 30.0}, verdict={"delta": 1.0}),
            "epochs": 128,
        },
        "training.steps=",
    ),
    "seeds learn too fast": (
        {"settings": settings(training={"steps": 40, "learning_rate": 3000.0}), "epochs": 16},
        "training.learning_rate=750",
    ),
    "nothing to gain": (
        {
            "model": learnt,
            "optimizer": still,
            "settings": settings(
                training={"learning_rate": 1.0}, verdict={"delta": 0.5, "measurements": 3}, policy={"embargo": 1}
            ),
            "epochs": 24,
        },
        "verdict.delta",
    ),
    "gate unlike the training data": ({"gate": unlike, "epochs": 8}, "draw gate_data at random"),
    "gain not told": (
        {"settings": settings(training={"learning_rate": 0.01}, verdict={"delta": 0.001, "alpha": 1e-3}), "epochs": 8},
        "to tell so small a gain",
    ),
    "no gain so far": (
        {"settings": settings(training={"learning_rate": 0.01}, verdict={"delta": 5.0}), "epochs": 8},
        "train longer",
    ),
    "training noise": (
        {
            "gate": many,
            "settings": settings(
                training={"steps": 32, "learning_rate": 60.0}, verdict={"alpha": 1e-7, "measurements": 5}
            ),
            "epochs": 12,
        },
        "training.learning_rate=30",
    ),
    "host still learns": (
        {"settings": settings(policy={"warmup": 40}), "optimizer": steady, "epochs": 5},
        "train longer",
    ),
    "overhead": ({"settings": settings(boundary={"steps": 1}), "epochs": 4}, "boundary.steps=2"),
}


@pytest.mark.parametrize("name", PROVOKED)
def test_a_run_that_calls_for_it_is_told(tmp_path: Path, name: str) -> None:
    more, change = PROVOKED[name]
    found = told(tmp_path, **more)
    assert name in found, found
    assert change in found[name]


def test_a_run_whose_log_is_too_slow_for_its_telemetry_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signal = SqliteLog.signal

    def slow(log: SqliteLog, record: Record) -> Position:
        time.sleep(0.2)
        return signal(log, record)

    monkeypatch.setattr(SqliteLog, "signal", slow)
    found = told(tmp_path, settings=settings(telemetry={"rows": 1, "buffer": 1}))
    assert "telemetry.every=2" in found["telemetry dropped"]


def test_threads_that_wait_for_busy_cores_are_told_of(tmp_path: Path) -> None:
    if waited() is None:
        pytest.skip("this kernel does not say how long a thread had no core (CONFIG_SCHED_INFO)")
    processes = 2 * len(os.sched_getaffinity(0))
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    torch.set_num_threads(2)
    try:
        found = told(tmp_path, model=wide, loader=whole, settings=settings(boundary={"steps": 2}), epochs=30)
    finally:
        for each in busy:
            each.kill()
            each.wait()
    assert "OMP_NUM_THREADS=1" in found["threads fight"]


def test_a_run_that_kept_a_seed_is_not_told_that_it_cannot_grow(tmp_path: Path) -> None:
    found = told(tmp_path, epochs=8)
    assert not set(found) & {"no gate data", "no site", "warm-up", "no budget", "nothing to gain", "sites rest"}


def test_who_wants_no_seeds_is_not_told_that_they_are_used_up(tmp_path: Path) -> None:
    found = told(tmp_path, settings=settings(policy={"seeds": 0}))
    assert not set(found) & {"seeds used up", "no budget", "sites rest"}


def test_used_up_seeds_renew_after_the_steps_that_are_set(tmp_path: Path) -> None:
    def seeds(renewal: int) -> int:
        loop = Loop(
            tmp_path, settings=settings(policy={"seeds": 1, "renewal": renewal}, verdict={"delta": 10.0}), epochs=20
        )
        loop.begin(f"run{renewal}")
        loop.go()
        with esper.connect(tmp_path) as connection:
            return len(connection.run(f"run{renewal}").seeds)

    assert seeds(0) == 1
    assert seeds(60) >= 2


def test_the_command_says_what_was_found_and_what_to_type(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    command: Callable[..., Any] = runner(tmp_path, capsys)
    told(tmp_path, settings=settings(policy={"budget": 0.01}))
    assert "run run kept no seed: no budget: the smallest seed adds" in caplog.text
    out = command("explain", "run").out
    assert out.startswith("run run is completed at step 40: no seeds\n1. no budget: the smallest seed adds")
    assert "set policy.budget=" in out
    found = command("explain", "run", "--json").json["findings"]
    assert found[0]["numbers"]["policy.budget"] == 0.01
    assert command("explain", "nothing").code == 1
