"""Folders and files that nobody but their owner may read, whatever the umask: they hold weights and data."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def make_folder(folder: Path) -> None:
    """Make ``folder`` and those above it that are missing, each 0700, so that a power cut does not take them away.

    Those that are there are left as they are. Raises OSError.
    """
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in ``folder`` on disk when this returns."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_file(path: Path, flags: int) -> int:
    """A descriptor of the file at ``path``, which is made 0600 where it is not there."""
    return os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, 0o600)


def open_to_others(path: Path) -> Iterator[tuple[Path, int]]:
    """``path``, and what lies below it, with its mode, as far as others than its owner may get at it.

    Links are not followed. Raises OSError for a folder that cannot be listed.
    """
    with suppress(FileNotFoundError):  # some files come and go
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode) or not mode & 0o077:
            return
        yield path, stat.S_IMODE(mode)
        if stat.S_ISDIR(mode):
            for each in sorted(path.iterdir()):
                yield from open_to_others(each)
