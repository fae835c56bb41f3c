"""Folders and files that nobody but their owner may read, whatever the umask: they hold weights and data."""

from __future__ import annotations

import os
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
