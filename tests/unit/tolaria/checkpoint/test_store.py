"""Checkpoints as files: what is written once, checked when read, and deleted when nobody needs it."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from esper.artifacts import open_store
from esper.artifacts.port import ArtifactStore
from esper.errors import CorruptArtifact, EsperError
from esper.tamiyo.run.snapshot import Folded
from esper.tamiyo.run.state import RunState
from esper.tolaria.checkpoint.store import Checkpoints, Snapshot, snapshot
from esper.tolaria.checkpoint.writer import CheckpointWriter
from esper.tolaria.model.digest import digest_tree


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return open_store(f"file:///{tmp_path}/artifacts")


@pytest.fixture
def files(store: ArtifactStore) -> Checkpoints:
    return Checkpoints(store, "run")


def state(w: float = 1.0) -> dict[str, Any]:
    return {"model": {"w": torch.full((5, 3), w), "same": torch.arange(1000.0)}, "step": [torch.tensor(2.0)] * 2}


def snap(step: int, tree: Any, cursor: Any = None) -> Snapshot:
    return snapshot(step, 10 * step, ("due",), tree, cursor or {"now": torch.tensor([step])})


def chunks(store: ArtifactStore) -> list[str]:
    return list(store.keys("runs/run/chunks/"))


def damage(tmp_path: Path, key: str) -> None:
    path = tmp_path / "artifacts" / key
    path.write_bytes(path.read_bytes()[:-1] + b"\xaa")


def test_a_checkpoint_comes_back_exactly(files: Checkpoints) -> None:
    written = files.write(snap(3, state()))
    loaded = files.read(written.manifest)
    assert (loaded.step, loaded.sequence) == (3, 30)
    assert loaded.digest.digest == digest_tree(loaded.tree).digest == digest_tree(state()).digest
    assert loaded.cursor == {"now": torch.tensor([3])}


def test_a_snapshot_is_a_copy(files: Checkpoints) -> None:
    tree = state()
    taken = snap(1, tree)
    tree["model"]["w"].zero_()
    assert files.read(files.write(taken).manifest).tree["model"]["w"].sum() == 15


def frozen(w: float) -> dict[str, Any]:
    return {"w": torch.full((5, 3), w), "frozen": torch.arange(2.0**15), "generator": torch.arange(5000).byte()}


def needed(store: ArtifactStore, manifest: str) -> set[str]:
    """The chunks that a checkpoint refers to."""
    raw = json.loads(store.get(f"runs/run/manifests/{manifest}.json", manifest))
    return {chunk for part in ("tensors", "cursor_tensors") for _, chunk in raw[part].values()}


def test_a_large_tensor_that_stays_as_it_is_is_stored_twice_and_not_again(files: Checkpoints) -> None:
    sizes = [files.write(snap(step, frozen(step))).size for step in range(1, 8)]
    assert all(size > 2**17 for size in sizes[:3])  # the first does not know yet that it stays
    assert all(size < 2**14 for size in sizes[3:])


@pytest.mark.parametrize("keep", [2, 3])
@pytest.mark.parametrize("tree", [state, frozen, lambda _: frozen(1.0)])
def test_no_file_is_needed_by_two_checkpoints_that_follow_one_another(
    files: Checkpoints, store: ArtifactStore, keep: int, tree: Any
) -> None:
    kept: list[str] = []
    for step in range(1, 12):
        kept.append(files.write(snap(step, tree(float(step)))).manifest)
        for old in kept[:-keep]:
            files.remove(old)
        kept = kept[-keep:]
        uses = [needed(store, manifest) for manifest in kept]
        assert all(not one & other for one, other in pairwise(uses))
        assert {key.split("/")[-1].split(".")[0] for key in chunks(store)} == set().union(*uses)
        assert [files.read(manifest).step for manifest in kept] == list(range(step - len(kept) + 1, step + 1))


def test_small_tensors_lean_on_no_earlier_file(files: Checkpoints, store: ArtifactStore) -> None:
    first, second = (files.write(snap(step, state(), {"now": torch.tensor([0])})).manifest for step in (1, 2))
    assert not needed(store, first) & needed(store, second)


def test_a_later_process_refers_to_no_file_of_the_checkpoint_it_took_up(
    files: Checkpoints, store: ArtifactStore, tmp_path: Path
) -> None:
    manifest = files.write(snap(1, frozen(1.0))).manifest
    later = Checkpoints(store, "run")
    later.adopt(manifest)
    later.read(manifest)
    again = later.write(snap(2, frozen(2.0)))
    for key in needed(store, manifest):
        damage(tmp_path, f"runs/run/chunks/{key}.safetensors")
    assert later.read(again.manifest).tree["frozen"].sum() == torch.arange(2.0**15).sum()
    assert later.write(snap(3, frozen(3.0))).size > 2**17
    assert later.write(snap(4, frozen(4.0))).size < 2**14


def test_equal_tensors_do_not_share_memory_after_loading(files: Checkpoints) -> None:
    parameters = [nn.Parameter(torch.ones(3)) for _ in range(3)]
    optimizer = torch.optim.Adam(parameters)
    for parameter in parameters:
        parameter.grad = torch.ones(3)
    optimizer.step()
    manifest = files.write(snap(1, optimizer.state_dict())).manifest
    loaded = files.read(manifest).tree
    steps = [entry["step"] for entry in loaded["state"].values()]
    assert len({step.data_ptr() for step in steps}) == 3
    optimizer.load_state_dict(loaded)
    optimizer.step()
    assert [float(entry["step"]) for entry in optimizer.state_dict()["state"].values()] == [2.0] * 3


def test_loaded_memory_is_aligned_as_torchs_own(files: Checkpoints) -> None:
    tree = {f"{n}": torch.full((n,), float(n), dtype=torch.float16) for n in range(1, 60)}
    loaded = files.read(files.write(snap(1, tree)).manifest).tree
    assert all(tensor.data_ptr() % 64 == 0 for tensor in loaded.values())


def test_large_states_are_cut_into_chunks(files: Checkpoints, store: ArtifactStore, monkeypatch: Any) -> None:
    monkeypatch.setattr("esper.tolaria.checkpoint.store.CHUNK_BYTES", 3000)
    tree = {str(n): torch.full((500,), float(n)) for n in range(7)}
    loaded = files.read(files.write(snap(1, tree)).manifest).tree
    assert len(chunks(store)) == 4
    assert [float(tensor[499]) for tensor in loaded.values()] == list(range(7))


@pytest.mark.parametrize("part", ["chunks", "manifests"])
@pytest.mark.parametrize("harm", ["damaged", "missing"])
def test_a_damaged_or_missing_file_is_noticed_and_named(
    files: Checkpoints, store: ArtifactStore, tmp_path: Path, part: str, harm: str
) -> None:
    manifest = files.write(snap(1, state())).manifest
    (key,) = store.keys(f"runs/run/{part}/")
    if harm == "damaged":
        damage(tmp_path, key)
    else:
        store.delete(key)
    with pytest.raises(CorruptArtifact, match=rf"runs/run/{part}.*{harm}"):
        files.read(manifest)


def test_a_manifest_of_a_newer_version_is_refused(files: Checkpoints, store: ArtifactStore, monkeypatch: Any) -> None:
    monkeypatch.setattr("esper.tolaria.checkpoint.store.FORMAT", 2)
    manifest = files.write(snap(1, state())).manifest
    monkeypatch.undo()
    with pytest.raises(CorruptArtifact, match=r"format 2.*update"):
        files.read(manifest)


def test_removing_a_checkpoint_keeps_the_chunks_that_others_need(files: Checkpoints, store: ArtifactStore) -> None:
    first, second, third, fourth = (files.write(snap(step, frozen(step))).manifest for step in range(1, 5))
    assert len(needed(store, second) & needed(store, fourth)) == 1
    files.remove(second)
    assert set(chunks(store)) == {
        f"runs/run/chunks/{each}.safetensors"
        for each in needed(store, first) | needed(store, third) | needed(store, fourth)
    }
    files.remove(first)
    files.remove(third)
    assert len(chunks(store)) == 2
    assert files.read(fourth).tree["frozen"][-1] == 2**15 - 1
    files.remove(fourth)
    assert list(store.keys("runs/run/")) == []
    assert files.read(files.write(snap(5, frozen(5.0))).manifest).step == 5


def test_a_later_process_removes_what_an_earlier_one_wrote(files: Checkpoints, store: ArtifactStore) -> None:
    manifests = [files.write(snap(step, state(w=step))).manifest for step in (1, 2)]
    later = Checkpoints(store, "run")
    for manifest in manifests:
        later.adopt(manifest)
    later.remove(manifests[0])
    assert later.read(manifests[1]).step == 2
    later.remove(manifests[1])
    assert list(store.keys("runs/run/")) == []


def test_manifests_hold_no_pickles_and_are_plain_json(files: Checkpoints, store: ArtifactStore) -> None:
    files.write(snap(1, {"nan": float("nan"), "counter": {1: (2, 3)}}))
    (key,) = store.keys("runs/run/manifests/")
    assert json.loads(store.get(key, key.rpartition("/")[2].removesuffix(".json")))["step"] == 1


def test_an_archive_writes_in_order_and_says_what_is_done(store: ArtifactStore) -> None:
    checkpoint_writer = CheckpointWriter(store, "run")
    for step in range(5):
        checkpoint_writer.take(snap(step, state(w=step)))
    done = checkpoint_writer.finished(wait=True)
    assert [taken.step for taken, _, _ in done] == [0, 1, 2, 3, 4]
    assert checkpoint_writer.finished() == []
    assert checkpoint_writer.adopt([written.manifest for _, written, _ in done]) == []
    assert checkpoint_writer.adopt(["0" * 64]) == ["0" * 64]
    checkpoint_writer.close()


def test_a_checkpoint_that_cannot_be_written_is_an_error_when_it_is_asked_for(
    store: ArtifactStore, tmp_path: Path
) -> None:
    (tmp_path / "artifacts").write_text("a file where the folder should be")
    checkpoint_writer = CheckpointWriter(store, "run")
    checkpoint_writer.take(snap(1, state()))
    with pytest.raises(EsperError, match=r"could not be written"):
        checkpoint_writer.finished(wait=True)
    checkpoint_writer.close()


def folded() -> Folded:
    return Folded(RunState("run", sequence=10, writer_epoch=1), "ab" * 32, "esper.runs/3:12")


def with_fold(snap: Snapshot) -> Snapshot:
    return replace(snap, folded=folded)


def test_the_folded_run_is_kept_with_a_checkpoint_and_goes_with_it(files: Checkpoints, store: ArtifactStore) -> None:
    without = files.write(snap(1, state()))
    written = files.write(with_fold(snap(2, state())))
    assert written.manifest == files.write(snap(2, state())).manifest
    later = Checkpoints(store, "run")
    assert later.folded(without.manifest, without.fold) is None
    assert later.folded(written.manifest, written.fold) == folded()
    (key,) = store.keys("runs/run/folds/")
    assert json.loads(store.get(key, key.split(".")[-2]))["link"] == "ab" * 32
    later.adopt(without.manifest)
    later.remove(written.manifest)
    assert list(store.keys("runs/run/folds/")) == []
    assert later.read(without.manifest).step == 1


def test_a_checkpoint_whose_folded_run_is_damaged_or_missing_is_whole(
    files: Checkpoints, store: ArtifactStore, tmp_path: Path
) -> None:
    written = files.write(with_fold(snap(1, state())))
    (key,) = store.keys("runs/run/folds/")
    damage(tmp_path, key)
    later = Checkpoints(store, "run")
    with pytest.raises(CorruptArtifact):
        later.folded(written.manifest, written.fold)
    store.delete(key)
    with pytest.raises(CorruptArtifact):
        later.folded(written.manifest, written.fold)
    later.adopt(written.manifest)
    assert later.read(written.manifest).step == 1


def test_what_no_checkpoint_refers_to_is_cleaned_away_and_nothing_else(
    files: Checkpoints, store: ArtifactStore
) -> None:
    kept = files.write(with_fold(snap(1, state())))
    lost = files.write(with_fold(snap(2, state())))
    store.put("runs/other/chunks/ab.safetensors", b"another run's")
    before = set(store.keys())
    later = Checkpoints(store, "run")
    later.adopt(kept.manifest)
    later.clean()
    assert later.read(kept.manifest).step == 1
    assert later.folded(kept.manifest, kept.fold) == folded()
    gone = before - set(store.keys())
    assert f"runs/run/manifests/{lost.manifest}.json" in gone
    assert f"runs/run/folds/{lost.manifest}.{lost.fold}.fold" in gone
    assert all(key.startswith("runs/run/") for key in gone)
    assert "runs/other/chunks/ab.safetensors" in set(store.keys())
