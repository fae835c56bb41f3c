"""Folders and files for their owner alone, whatever the umask, and what is open to others."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.system import private


@pytest.fixture(params=[0o000, 0o077], ids=["an open umask", "a strict one"], autouse=True)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_folders_that_are_missing_are_made_private_and_those_that_are_there_left_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    private.make_folder(tmp_path / "one" / "two")
    assert [mode(tmp_path / place) for place in (".", "one", "one/two")] == [0o755, 0o700, 0o700]
    (tmp_path / "one").chmod(0o750)
    private.make_folder(tmp_path / "one")
    assert mode(tmp_path / "one") == 0o750


def test_the_name_of_each_new_folder_is_synced_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(private, "sync_folder", synced.append)
    private.make_folder(tmp_path / "one" / "two")
    assert synced == [tmp_path, tmp_path / "one"]


def test_a_folder_under_a_file_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        private.make_folder(tmp_path / "file")
    with pytest.raises(FileExistsError):
        private.make_folder(tmp_path / "file" / "below")


def test_a_file_is_made_private_and_one_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    os.close(private.open_file(path, os.O_WRONLY))
    assert mode(path) == 0o600
    path.chmod(0o644)
    os.close(private.open_file(path, os.O_WRONLY))
    assert mode(path) == 0o644


def test_what_others_may_get_at_is_told_with_its_mode_as_far_as_they_get(tmp_path: Path) -> None:
    tmp_path.chmod(0o711)
    for name, of in (("b", 0o750), ("a", 0o604), ("closed", 0o700)):
        place = tmp_path / name
        place.touch() if name == "a" else place.mkdir()
        place.chmod(of)
    (tmp_path / "closed" / "open").touch(0o666)
    (tmp_path / "closed" / "open").chmod(0o666)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    found = list(private.open_to_others(tmp_path))
    assert found == [(tmp_path, 0o711), (tmp_path / "a", 0o604), (tmp_path / "b", 0o750)]


def test_nothing_is_open_where_nothing_is(tmp_path: Path) -> None:
    assert list(private.open_to_others(tmp_path / "gone")) == []
