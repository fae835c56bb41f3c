"""Reading a log's file where nothing can be made beside it: on read-only media, and in folders of others.

SQLite reads what lies in ``-wal`` through an index of it, ``-shm``, and makes that where it is missing. Where it
cannot, the index can be kept in memory; and where nothing lies in ``-wal`` none is needed. Both ways take no locks. So
whoever reads looks whether somebody has written meanwhile, from another machine or through another mount.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import apsw

_HEAD = 32
"""Bytes at the beginning of ``-wal`` with its salts, which are others each time that it is begun anew."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a log's files look like from outside."""

    file: tuple[int, int, int, int]
    ahead: int
    head: bytes

    def torn(self, now: Seen) -> bool:
        """Whether what is read may be half of ``self`` and half of ``now``: what is only appended to ``-wal`` is not
        looked at before the file is opened again."""
        return self.file != now.file or self.head not in (b"", now.head)


def seen(path: Path) -> Seen:
    """What they look like now; raises OSError where there is no file."""
    found = path.stat()
    head, ahead = b"", 0
    try:
        with _beside(path, "-wal").open("rb") as wal:
            head, ahead = wal.read(_HEAD), wal.seek(0, 2)
    except FileNotFoundError:
        pass
    return Seen((found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns), ahead, head)


def opened(path: Path, found: Seen) -> apsw.Connection:
    """A connection that reads the file at ``path``, which looked like ``found``, and makes and changes nothing.

    Raises apsw.Error.
    """
    if not found.ahead and not _holds_something(_beside(path, "-journal")):
        uri = f"file:{quote(str(path))}?immutable=1"  # would not look into -wal, if there were something
        return apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY, vfs="unix-none")
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # has SQLite keep the index in memory; nothing is locked
    return connection


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _holds_something(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0
