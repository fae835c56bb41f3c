"""The built-in tasks: their data is checked, their batches repeat, and measuring leaves no trace."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from esper.errors import DataUnavailable, UsageError
from esper.tasks import TASKS, digits, fashion_mnist, load_task
from esper.tasks.task import Task, accuracy, loss


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task("digits")


def test_every_example_is_in_exactly_one_part(task):
    parts = (task.train, task.gate, task.test)
    assert [len(part) for part in parts] == [1200, 300, 297]
    whole = torch.cat([part.inputs for part in parts])
    assert len(whole.unique(dim=0)) == len(whole)
    assert all(set(part.labels.tolist()) == set(range(10)) for part in parts)


def test_the_loss_is_one_number_per_example(task):
    batch = next(iter(task.train_loader(0)))
    scaled = task.model(0).scale(batch[0])
    assert (batch[0].dtype, scaled.dtype) == (torch.uint8, torch.float32)
    assert abs(float(scaled.mean())) < 0.2
    assert loss(task.model(0), batch).shape == (task.batch_size,)


def test_the_seed_gives_the_weights_and_the_order(task):
    def start(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        model = task.model(seed)
        return next(model.parameters()).detach(), next(iter(task.train_loader(seed)))[1]

    assert all(map(torch.equal, start(3), start(3)))
    assert not any(map(torch.equal, start(3), start(4)))


def test_an_epoch_shows_each_training_example_at_most_once_and_the_next_in_another_order(task):
    loader = task.train_loader(0)
    first, second = (torch.cat([inputs for inputs, _ in loader]) for _ in range(2))
    assert len(first) == task.steps_per_epoch * task.batch_size == len(first.unique(dim=0))
    assert not torch.equal(first, second)


def test_gate_batches_are_the_same_each_time(task):
    gate = task.gate_loader()
    once, again = list(gate), list(gate)
    assert len(once) == len(gate)
    assert sum(len(labels) for _, labels in once) == len(task.gate)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(once, again, strict=True))


def test_measuring_accuracy_leaves_modes_buffers_and_generators_alone(task):
    scale, *layers = task.model(0)
    model = torch.nn.Sequential(scale, torch.nn.BatchNorm1d(64), torch.nn.Dropout(0.5), *layers)
    model[3].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    share = accuracy(model, task.gate_loader())
    assert 0 <= share <= 1
    assert [module.training for module in model][1:4] == [True, True, False]
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_unknown_task_names_the_one_that_was_meant():
    with pytest.raises(UsageError, match="did you mean fashion-mnist"):
        load_task("fashion_mnist")


def test_looking_up_tasks_imports_no_torch():
    program = "import sys, esper.tasks; assert esper.tasks.TASKS; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
    assert TASKS


def test_missing_images_are_an_error_that_names_the_package_and_the_other_task(monkeypatch, tmp_path):
    _only(monkeypatch, tmp_path)
    with pytest.raises(DataUnavailable, match=r"dataset-fashion-mnist.*make setup.*--task digits"):
        load_task("fashion-mnist")


def test_a_damaged_data_file_is_refused(monkeypatch, tmp_path):
    folder = _only(monkeypatch, tmp_path)
    folder.mkdir(parents=True)
    for name in fashion_mnist.FILES:
        (folder / name).write_bytes(gzip.compress(b"something else"))
    with pytest.raises(DataUnavailable, match=r"train-images-idx3-ubyte.gz has SHA-256 .* damaged"):
        load_task("fashion-mnist")
    monkeypatch.setattr(digits, "data_file", lambda: folder / "train-images-idx3-ubyte.gz")
    with pytest.raises(DataUnavailable, match="scikit-learn"):
        load_task("digits")


def test_fashion_mnist_has_its_images_and_its_checksums():
    try:
        task = load_task("fashion-mnist")
    except DataUnavailable as error:
        pytest.skip(str(error))
    assert [len(part) for part in (task.train, task.gate, task.test)] == [54_000, 6_000, 10_000]
    assert {file.name: file.sha256 for file in task.files} == fashion_mnist.FILES
    inputs, labels = next(iter(task.gate_loader()))
    assert inputs.shape == (1000, 1, 28, 28)
    assert labels.bincount().min() > 50
    assert task.model(0)(inputs[:2]).shape == (2, 10)


def _only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing but an empty cache may hold data; returns where the cache would have the images."""
    monkeypatch.setattr(fashion_mnist, "SYSTEM", tmp_path / "system")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "esper" / "datasets" / "fashion-mnist"
