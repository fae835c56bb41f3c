"""Three models that have kept three seeds each, in real runs, loaded by another process from each source."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from esper.cli.main import main as esper_command
from tests.support.runs import grown_hosts
from tests.support.runs.grown_hosts import HOSTS, INPUTS
from tests.support.runs.training import Loop, settings, stages

pytestmark = pytest.mark.usefixtures("one_thread")
READER = Path(grown_hosts.__file__)


def examples(kind: str, count: int, seed: int) -> TensorDataset:
    """Inputs of the host's shape and what a narrow host learns only in part."""
    x = torch.randn(count, *INPUTS[kind], generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, 2 * x.flatten(1)[:, :1].abs() + x.flatten(1)[:, 1:2] * x.flatten(1)[:, 2:3])


def loader(kind: str, seed: int) -> Callable[[], Any]:
    return lambda: DataLoader(examples(kind, 400, seed), batch_size=16 if seed == 1 else 100, shuffle=seed == 1)


def squared(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    result: Tensor = (model(x) - y).square()
    return result


def slow(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=3e-4)


KEEPING = settings(
    verdict={"alpha": 0.49, "delta": 0.0, "rent": 0.0, "measurements": 2},
    training={"steps": 24, "warmup": 4, "learning_rate": 30.0},  # of a host that learns slowly, so that a seed helps
    policy={"warmup": 4, "budget": 500.0, "embargo": 4, "exploration": 0.0, "seeds": 60},
)


def grown(home: Path, kind: str) -> nn.Module:
    """The model of a completed run that kept at least three seeds."""
    data = {"loader": loader(kind, 1), "gate": loader(kind, 2)}
    loop = Loop(home, model=HOSTS[kind], optimizer=slow, loss=squared, settings=KEEPING, epochs=16, **data)
    run = loop.begin()
    assert run._trainer is not None
    model = run._trainer.subject.model
    loop.go()
    kept = [seed for _, seed, stage in stages(home) if stage == "FOSSILISED"]
    assert len(kept) >= 3, kept
    return model.eval()


def saved(model: nn.Module, home: Path) -> dict[str, list[str]]:
    """By source: what another process is told to load from."""
    torch.save(model.state_dict(), home / "w.pt")
    safetensors.torch.save_file(model.state_dict(), home / "w.safetensors")
    safetensors.torch.save_model(model, str(home / "m.safetensors"))
    torch.save(torch.optim.swa_utils.AveragedModel(model).state_dict(), home / "average.pt")
    torch.save({f"_orig_mod.{name}": each for name, each in model.state_dict().items()}, home / "compiled.pt")
    assert esper_command(["weights", "run", "--out", str(home / "run.safetensors"), "--home", str(home)]) == 0
    return {
        "torch.load": ["load", str(home / "w.pt")],
        "load_file": ["load_file", str(home / "w.safetensors")],
        "load_model": ["load_model", str(home / "m.safetensors")],
        "meta": ["meta", str(home / "w.pt")],
        "build": ["build", str(home / "w.safetensors")],
        "build, averaged": ["build", str(home / "average.pt")],
        "build, compiled": ["build", str(home / "compiled.pt")],
        "esper weights": ["build", str(home / "run.safetensors")],
        "esper.load": ["run", str(home)],
    }


@pytest.mark.parametrize("kind", HOSTS)
def test_another_process_has_the_outputs_bit_for_bit_from_each_source(tmp_path: Path, kind: str) -> None:
    model = grown(tmp_path, kind)
    x = examples(kind, 20, seed=5).tensors[0]
    with torch.no_grad():
        wanted = model(x)
    torch.save({"x": x, "y": wanted}, tmp_path / "io.pt")
    sources = saved(model, tmp_path)
    command = [sys.executable, str(READER), kind, str(tmp_path / "io.pt")]
    told = subprocess.run(
        [*command, *(word for source in sources.values() for word in source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.stderr == ""
    assert told.stdout.split() == ["True"] * len(sources)
