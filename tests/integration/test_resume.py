"""A run that was interrupted ends with the same history, whatever its data, optimiser or model."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

from esper.errors import CorruptArtifact, DataMismatch, ReplayDivergence, RunUnusable, Unsupported
from esper.events.runs import (
    BoundaryReached,
    CheckpointCommitted,
    CheckpointRetired,
    RunResumed,
    RunStarted,
    SeedTransitioned,
)
from tests.support.runs.training import SETTINGS, Loop, contents, examples, history, host, settings, stages

pytestmark = pytest.mark.usefixtures("one_thread")
START = sys.modules["esper.tolaria.start"]  # the package has a function of that name


class Augmented(Dataset[Any]):
    """Draws from all three global generators for each example."""

    def __init__(self) -> None:
        self.examples = examples(64)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Any:
        x, y = self.examples[index]
        noise = np.random.randn() + random.random() + float(torch.rand(()))
        return x + 0.01 * noise, y


LOADERS: dict[str, Callable[[], Iterable[Any]]] = {
    "a generator of its own": lambda: DataLoader(
        examples(64), batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(5)
    ),
    "a sampler with a generator": lambda: DataLoader(
        examples(64), batch_size=8, sampler=RandomSampler(examples(64), generator=torch.Generator().manual_seed(5))
    ),
    "augmentation": lambda: DataLoader(Augmented(), batch_size=8, shuffle=True),
}


@pytest.mark.parametrize("steps", [(13,), (16,), (5, 17, 17 + 12)], ids=["in an epoch", "at its end", "three times"])
@pytest.mark.parametrize("loader", LOADERS)
def test_the_order_of_the_data_survives(tmp_path: Path, loader: str, steps: tuple[int, ...]) -> None:
    loop = Loop(tmp_path, loader=LOADERS[loader], epochs=4)
    assert loop.torn(*steps) == loop.whole()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_order_of_the_data_survives_with_workers(tmp_path: Path) -> None:
    loop = Loop(tmp_path, loader=lambda: DataLoader(Augmented(), batch_size=8, shuffle=True, num_workers=2), epochs=2)
    assert loop.torn(13) == loop.whole()


def test_a_crash_before_the_second_checkpoint_is_resumed_from_the_first_weights(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=3)
    assert loop.torn(3, 5) == loop.whole()
    assert contents(tmp_path, RunResumed, "torn")[0].checkpoint == 0


def test_a_crash_before_the_first_step_is_no_matter(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=2)
    whole = loop.whole()
    loop.begin("torn")
    loop.crash()
    loop.resume("torn")
    loop.crash()
    loop.resume("torn")
    loop.go()
    assert history(tmp_path, "torn") == whole


def test_a_seeds_whole_life_is_resumed_at_every_stage(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=7)
    whole = loop.whole()
    assert [stage for _, seed, stage in stages(tmp_path, "whole") if seed == "3#1"] == [
        "GERMINATED",
        "TRAINING",
        "BLENDING",
        "HOLDING",
        "FOSSILISED",
    ]
    assert loop.torn(9, 18, 29, 33, 37, 45, 51) == whole


def convolutional() -> nn.Module:
    image = nn.Unflatten(1, (1, 2, 2))
    return nn.Sequential(image, nn.Conv2d(1, 3, 2, padding=1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(27, 1))


def last_channels() -> nn.Module:
    return convolutional().to(memory_format=torch.channels_last)


def squared(model: nn.Module, batch: Any) -> Tensor:
    x, y = (each.to(next(model.parameters()).dtype) for each in batch)
    return (model(x) - y).square()


KINDS: dict[str, dict[str, Any]] = {
    "float64 and SGD with momentum": {
        "model": lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1)).double(),
        "optimizer": lambda model: torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9),
    },
    "Conv2d": {"model": convolutional},
    "Conv2d, channels last": {"model": last_channels},
    "LayerNorm": {
        "model": lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 1)),
        "more": {"sites": ["1"]},
    },
    "LayerNorm without parameters": {
        "model": lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4, elementwise_affine=False), nn.Linear(4, 1)),
        "more": {"sites": ["1"]},
    },
    "bfloat16 and NAdam": {
        "model": lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1)).bfloat16(),
        "optimizer": lambda model: torch.optim.NAdam(model.parameters(), lr=1e-2),
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_models_and_optimisers_of_other_kinds_are_resumed(tmp_path: Path, kind: str) -> None:
    loop = Loop(tmp_path, loss=squared, epochs=4, **KINDS[kind])
    whole = loop.whole()
    assert loop.torn(18, 29) == whole
    assert stages(tmp_path, "torn")[1][2] == "TRAINING"


def test_one_run_follows_another_and_others_are_resumed_beside_it(tmp_path: Path) -> None:
    loop, beside = Loop(tmp_path, epochs=3), Loop(tmp_path, epochs=3)
    whole = loop.whole()
    loop.begin("a")
    loop.go(until=10)
    beside.begin("b")
    beside.go(until=11)
    loop.resume("a")
    loop.go()
    beside.resume("b")
    beside.go()
    assert history(tmp_path, "a") == history(tmp_path, "b") == whole


# Checkpoints that are damaged or gone


def chunk_files(home: Path, run_id: str) -> dict[Path, int]:
    folder = home / "artifacts" / "runs" / run_id
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def partly_frozen() -> nn.Module:
    """A host most of whose bytes never change."""
    model = nn.Sequential(nn.Linear(4, 2**13), nn.Linear(2**13, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    for parameter in model[:2].parameters():
        parameter.requires_grad_(False)
    return model


def damage(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-8] + bytes(255 - each for each in data[-8:]))


def newest_manifest(home: Path, run_id: str) -> tuple[Path, CheckpointCommitted]:
    gone = {each.manifest for each in contents(home, CheckpointRetired, run_id)}
    live = [each for each in contents(home, CheckpointCommitted, run_id) if each.manifest not in gone]
    return home / "artifacts" / "runs" / run_id / "manifests" / f"{live[-1].manifest}.json", live[-1]


def own_chunk(manifest: Path, committed: set[str]) -> Path:
    """A chunk that only this checkpoint needs, of those that are committed; one more may be on its way."""
    folder = manifest.parents[1]
    paths = [path for path in (folder / "manifests").iterdir() if path.stem in committed]
    needed = {path: set(re.findall(r"[0-9a-f]{64}", path.read_text())) for path in paths}
    others = set().union(*(names for path, names in needed.items() if path != manifest))
    return next(path for path in (folder / "chunks").iterdir() if path.stem in needed[manifest] - others)


@pytest.mark.parametrize("harm", [damage, os.unlink], ids=["damaged", "missing"])
@pytest.mark.parametrize("part", ["manifest", "chunk"])
def test_recovery_takes_the_checkpoint_before_a_damaged_one_and_says_so(
    tmp_path: Path, harm: Callable[[Path], None], part: str
) -> None:
    loop = Loop(tmp_path, epochs=4)
    whole = loop.whole()
    loop.begin("torn")
    loop.go(until=21)
    manifest, newest = newest_manifest(tmp_path, "torn")
    if part == "manifest":
        harm(manifest)
    else:
        harm(own_chunk(manifest, {each.manifest for each in contents(tmp_path, CheckpointCommitted, "torn")}))
    loop.resume("torn")
    (resumed,) = contents(tmp_path, RunResumed, "torn")
    assert resumed.checkpoint < newest.step
    assert resumed.notes == (f"the checkpoint of step {newest.step} is damaged and was passed over",)
    retired = [each for each in contents(tmp_path, CheckpointRetired, "torn") if each.step == newest.step]
    assert [each.manifest for each in retired] == [newest.manifest]
    loop.go()
    assert [path for path in chunk_files(tmp_path, "torn") if newest.manifest in path.name] == []
    assert history(tmp_path, "torn") == whole


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(("model", "step"), [*((host, step) for step in (13, 21, 29, 35, 43)), (partly_frozen, 35)])
@pytest.mark.parametrize("harm", [damage, truncate, os.unlink], ids=["damaged", "truncated", "missing"])
def test_no_file_is_needed_by_every_checkpoint_whatever_stage_a_seed_is_in(
    tmp_path: Path, harm: Callable[[Path], None], model: Callable[[], nn.Module], step: int
) -> None:
    loop = Loop(tmp_path / "home", model=model, epochs=6)
    whole = loop.whole()
    loop.begin("torn")

    def settled(number: int, batch: Any) -> Any:
        if number == step:  # on a slow disk only the first checkpoint would be there, and nothing to fall back to
            loop.run._trainer.retention.commit(wait=True)  # type: ignore[union-attr]
        return batch

    loop.go(until=step, on_batch=settled)
    files = [*chunk_files(tmp_path / "home", "torn"), *(tmp_path / "home" / "artifacts" / "kernels").iterdir()]
    assert len(files) > 6
    for number, path in enumerate(files):
        copy = tmp_path / str(number)
        shutil.copytree(tmp_path / "home", copy)
        harm(copy / path.relative_to(tmp_path / "home"))
        again = Loop(copy, model=model, epochs=6)
        again.resume("torn")
        again.go()
        assert history(copy, "torn") == whole
        shutil.rmtree(copy)


@pytest.mark.parametrize("harm", [damage, os.unlink], ids=["damaged", "missing"])
@pytest.mark.parametrize("step", [13, 21, 29, 35, 43])
def test_a_seeds_kernel_is_compiled_again_where_its_file_is_lost(
    tmp_path: Path, harm: Callable[[Path], None], step: int
) -> None:
    loop = Loop(tmp_path, epochs=6)
    whole = loop.whole()
    loop.begin("torn")
    loop.go(until=step)
    kernels = {path: path.read_bytes() for path in (tmp_path / "artifacts" / "kernels").iterdir()}
    assert kernels
    for path in kernels:
        harm(path)
    loop.resume("torn")
    loop.go()
    assert history(tmp_path, "torn") == whole
    needed = {each.kernel for each in contents(tmp_path, SeedTransitioned, "torn") if each.step >= step}
    assert all(path.read_bytes() == data for path, data in kernels.items() if path.name in needed)


def test_a_kernel_that_this_machine_makes_otherwise_is_refused_with_both_digests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = Loop(tmp_path, epochs=6)
    loop.begin("torn")
    loop.go(until=10)  # before the checkpoint behind its birth, which is thus replayed
    lost = list((tmp_path / "artifacts" / "kernels").iterdir())
    for path in lost:
        path.unlink()
    monkeypatch.setattr("esper.tezzeret.birth.kernel_bytes", lambda kernel: b"of another CPU")
    loop.resume("torn")
    with pytest.raises(CorruptArtifact) as refused:
        loop.go()
    assert any(path.name in str(refused.value) for path in lost)
    assert hashlib.sha256(b"of another CPU").hexdigest()[:12] in str(refused.value)


def test_when_every_checkpoint_is_damaged_the_error_says_what_to_do(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=3)
    loop.begin()
    loop.go(until=13)
    for path in chunk_files(tmp_path, "run"):
        if path.suffix == ".safetensors":
            damage(path)
    for _ in range(2):
        with pytest.raises(CorruptArtifact, match=r"no checkpoint whose files are whole; restore the artifacts"):
            loop.resume()
    assert contents(tmp_path, CheckpointRetired) == []


def test_a_blending_seed_whose_start_is_damaged_is_taken_up_from_before_it(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=6)
    whole = loop.whole()
    loop.begin("torn")
    loop.go(until=35)
    began = [each for each in contents(tmp_path, CheckpointCommitted, "torn") if "blending" in each.reason][-1]
    os.unlink(tmp_path / "artifacts" / "runs" / "torn" / "manifests" / f"{began.manifest}.json")
    loop.resume("torn")
    assert contents(tmp_path, RunResumed, "torn")[-1].checkpoint < began.step
    loop.go()
    assert history(tmp_path, "torn") == whole


def test_files_of_retired_checkpoints_are_deleted_and_no_others(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=6)
    loop.begin()
    loop.go()
    retired = {each.manifest for each in contents(tmp_path, CheckpointRetired)}
    kept = {each.manifest for each in contents(tmp_path, CheckpointCommitted)} - retired
    assert len(retired) > 3
    assert {path.stem for path in chunk_files(tmp_path, "run") if path.suffix == ".json"} == kept


def test_the_start_of_blending_is_kept_while_the_seed_is_in_the_host(tmp_path: Path) -> None:
    loop = Loop(tmp_path, settings=settings(checkpoint={"steps": 1, "keep": 1}), epochs=6)
    loop.begin()
    loop.go(until=43)
    retired = {each.step for each in contents(tmp_path, CheckpointRetired)}
    committed = {each.step for each in contents(tmp_path, CheckpointCommitted)}
    assert {0, 28} <= committed - retired
    assert len(committed - retired) <= 5


# What must not be taken up


def test_another_batch_size_is_noticed(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=3)
    loop.begin()
    loop.go(until=13)
    loop.loader = lambda: DataLoader(examples(64), batch_size=4, shuffle=True)
    loop.resume()
    with pytest.raises(DataMismatch, match=r"batch"):
        loop.go()
    loop.loader = Loop(tmp_path).loader
    loop.resume()
    loop.go()


def test_other_data_in_an_epoch_that_the_log_holds_is_noticed(tmp_path: Path) -> None:
    loop = Loop(tmp_path, settings=settings(checkpoint={"steps": 100}), epochs=3)
    loop.begin()
    loop.go(until=6)
    loop.loader = lambda: DataLoader(examples(64, seed=9), batch_size=8, shuffle=True)
    loop.resume()
    with pytest.raises(DataMismatch, match=r"step 4: the loader gave another batch"):
        loop.go()


def test_a_loop_that_does_something_else_diverges_by_name(tmp_path: Path) -> None:
    loop = Loop(tmp_path, settings=settings(checkpoint={"steps": 100}), epochs=3)
    loop.begin()
    loop.go(until=6)
    loop.resume()
    with pytest.raises(ReplayDivergence, match=r"step 4 run again differs from the log, first in model\.0\.bias"):
        loop.go(on_batch=lambda step, batch: _nudged(loop, batch))


def _nudged(loop: Loop, batch: Any) -> Any:
    trainer = loop.run._trainer
    assert trainer is not None
    with torch.no_grad():
        trainer.subject.model.get_parameter("0.bias").add_(0.1)
    return batch


def test_persistent_workers_are_refused(tmp_path: Path) -> None:
    loop = Loop(tmp_path, loader=lambda: DataLoader(examples(64), batch_size=8, num_workers=1, persistent_workers=True))
    loop.begin()
    with pytest.raises(Unsupported, match=r"persistent_workers"):
        loop.go()


def test_a_loop_that_ends_before_the_logged_steps_is_an_error_and_loses_nothing(tmp_path: Path) -> None:
    loop = Loop(tmp_path, settings=settings(checkpoint={"steps": 100}), epochs=2)
    whole = loop.whole()
    loop.begin("torn")
    loop.go(until=7)
    run = loop.resume("torn")
    with pytest.raises(ReplayDivergence, match=r"ended at step 0.*logged steps up to 4.*at least as long"):
        run.finish()
    loop.resume("torn")
    loop.go()
    assert history(tmp_path, "torn") == whole


def test_settings_and_seed_come_from_the_log(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=3, more={"seed": 7})
    whole = loop.whole()
    assert whole[0][1]["seed"] == 7
    loop.begin("torn")
    loop.go(until=13)
    loop.more, loop.settings = {}, {"boundary": {"steps": 3}}
    loop.resume("torn")
    loop.go()
    assert history(tmp_path, "torn") == whole
    assert SETTINGS["boundary"]["steps"] == 4


@pytest.mark.parametrize(("algorithm", "length"), [("sha256", 64), ("xxh3_128", 32)])
def test_a_run_digests_its_state_for_life_as_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: str, length: int
) -> None:
    loop = Loop(tmp_path, epochs=3)
    with monkeypatch.context() as then:
        then.setattr(START, "STATE_DIGESTS", algorithm)
        whole = loop.whole()
        loop.begin("torn")
        loop.go(until=9)
    loop.resume("torn")
    loop.go(until=17)
    loop.resume("torn")
    loop.go()
    assert history(tmp_path, "torn") == whole
    assert {len(each.digest) for each in contents(tmp_path, BoundaryReached, "torn")} == {length}
    (started,) = contents(tmp_path, RunStarted, "torn")
    assert (started.state_digests, len(started.parameters_digest)) == (algorithm, 64)


def test_a_new_run_digests_its_state_by_xxh3(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    loop.begin()
    loop.go(until=9)
    assert contents(tmp_path, RunStarted)[0].state_digests == "xxh3_128"
    assert {len(each.digest) for each in contents(tmp_path, BoundaryReached)} == {32}


def test_a_run_whose_digests_this_version_cannot_make_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = Loop(tmp_path)
    monkeypatch.setattr(START, "STATE_DIGESTS", "blake9")
    loop.begin()
    loop.go(until=3)
    with pytest.raises(RunUnusable, match=r"run run .*'blake9'.*knows sha256 and xxh3_128 .*update esper-training$"):
        loop.resume()
    assert contents(tmp_path, RunResumed) == []
