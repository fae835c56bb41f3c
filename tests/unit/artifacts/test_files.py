from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from esper.artifacts import ArtifactStore, open_store
from esper.errors import CorruptArtifact, EsperError, UsageError

DATA = b"some bytes" * 100
SHA256 = hashlib.sha256(DATA).hexdigest()
KEY = f"kernels/{SHA256}"


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return open_store(f"file:///{tmp_path}/artifacts")


def file_of(store: ArtifactStore, key: str = KEY) -> Path:
    return Path(store.url.removeprefix("file:///")) / key


def test_what_is_put_is_got(store: ArtifactStore) -> None:
    assert not store.exists(KEY)
    store.put(KEY, DATA)
    assert store.exists(KEY)
    assert store.get(KEY, SHA256) == DATA


def test_nobody_but_the_owner_may_read_what_is_put(store: ArtifactStore) -> None:
    before = os.umask(0o022)
    try:
        store.put(KEY, DATA)
    finally:
        os.umask(before)
    path = file_of(store)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [folder.stat().st_mode & 0o777 for folder in list(path.parents)[:2]] == [0o700, 0o700]


def test_a_url_with_three_slashes_is_relative_and_with_four_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    open_store("file:///.esper/artifacts").put(KEY, DATA)
    assert (tmp_path / ".esper" / "artifacts" / KEY).read_bytes() == DATA
    assert open_store(f"file:///{tmp_path}/.esper/artifacts").exists(KEY)


@pytest.mark.parametrize("url", ["", "file:///", "/tmp/x", "file://host/x", "s3://bucket/x", "sqlite:///x"])
def test_another_url_is_refused_with_the_form_it_should_have(url: str) -> None:
    with pytest.raises(UsageError, match="file:///relative/folder"):
        open_store(url)


@pytest.mark.parametrize(
    "key",
    ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "./a", ".tmp-1", "a/.hidden", "a\nb", "a b", "é", "a" * 600],
)
def test_a_key_outside_the_pattern_is_refused_by_every_method(store: ArtifactStore, key: str) -> None:
    for call in (store.exists, store.delete, lambda key: store.put(key, b""), lambda key: store.get(key, SHA256)):
        with pytest.raises(UsageError, match="is not an artifact's key"):
            call(key)


def test_a_missing_artifact_is_an_error_of_one_line_that_names_it(store: ArtifactStore) -> None:
    with pytest.raises(CorruptArtifact, match=f"{KEY} is missing") as raised:
        store.get(KEY, SHA256)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("damaged", [b"", DATA[:-1], DATA[:-1] + b"!", DATA + b"!"])
def test_a_damaged_artifact_is_an_error_and_putting_it_again_mends_it(store: ArtifactStore, damaged: bytes) -> None:
    store.put(KEY, DATA)
    file_of(store).write_bytes(damaged)
    with pytest.raises(CorruptArtifact, match="is damaged"):
        store.get(KEY, SHA256)
    store.put(KEY, DATA)
    assert store.get(KEY, SHA256) == DATA


def test_putting_twice_writes_once(store: ArtifactStore) -> None:
    store.put(KEY, DATA)
    before = file_of(store).stat()
    store.put(KEY, DATA)
    after = file_of(store).stat()
    assert before.st_ino == after.st_ino
    assert before.st_mtime_ns < after.st_mtime_ns  # it is needed from now on, so a repair lets it be


def test_deleting_twice_is_no_error(store: ArtifactStore) -> None:
    store.put(KEY, DATA)
    store.delete(KEY)
    store.delete(KEY)
    store.delete(f"{KEY}/below-a-file")
    assert not store.exists(KEY)


def test_keys_are_sorted_and_chosen_by_prefix_without_temporary_files(store: ArtifactStore) -> None:
    assert list(store.keys()) == []
    for key in ("runs/b/2", "runs/a/1", "kernels/k"):
        store.put(key, DATA)
    file_of(store, "kernels/.tmp-1-ab").write_bytes(b"half")
    assert list(store.keys()) == ["kernels/k", "runs/a/1", "runs/b/2"]
    assert list(store.keys("runs/")) == ["runs/a/1", "runs/b/2"]
    assert list(store.keys("nothing")) == []


def test_file_and_folders_are_on_disk_before_put_returns(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        done.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name.split('-')[0]}")
        fsync(descriptor)

    def noted_replace(source: Path, target: Path) -> None:
        done.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    store.put("kernels/k", DATA)
    assert done[-3:] == ["fsync .tmp", "rename", "fsync kernels"]
    assert "fsync artifacts" in done[:-3], "the new folder's own name must be on disk too"


def test_a_full_disk_is_an_error_of_one_line_and_leaves_nothing(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("kernels/before", DATA)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EsperError, match=f"{KEY} could not be written .*No space left on device.*; make room"):
        store.put(KEY, DATA)
    assert [path.name for path in file_of(store).parent.iterdir()] == ["before"]


def test_what_cannot_be_read_is_not_called_corrupt(store: ArtifactStore) -> None:
    file_of(store).mkdir(parents=True)
    with pytest.raises(EsperError, match="could not be read") as raised:
        store.get(KEY, SHA256)
    assert not isinstance(raised.value, CorruptArtifact)


def test_half_written_files_are_removed_when_they_are_old(store: ArtifactStore) -> None:
    folder = file_of(store).parent
    folder.mkdir(parents=True)
    old, new = folder / ".tmp-1-old", folder / ".tmp-2-new"
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    store.put(KEY, DATA)
    assert not old.exists()
    assert new.exists(), "another process may be writing it"


def _put_many(url: str) -> None:
    store = open_store(url)
    for number in range(20):
        data = bytes([number]) * 1000
        store.put(f"shared/{hashlib.sha256(data).hexdigest()}", data)


def test_processes_may_put_the_same_artifacts_at_once(store: ArtifactStore) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_put_many, args=(store.url,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    keys = list(store.keys("shared/"))
    assert len(keys) == 20
    for key in keys:
        store.get(key, key.removeprefix("shared/"))
    assert not list((file_of(store, "shared")).glob(".tmp-*"))
