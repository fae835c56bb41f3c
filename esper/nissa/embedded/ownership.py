"""One process at a time has an embedded database: a lock file beside it says which, and where to ask it.

The lock is the kernel's (flock), so it goes with the process, however that ends. What the file says is for the others:
process id, command, and the socket on which a process that keeps the database answers questions.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from esper.errors import AnalyticsError
from esper.system.backoff import Backoff
from esper.system.locks import locked
from esper.system.private import make_folder, open_file

OWNER_TIMEOUT = 10.0
"""Seconds to wait for another process to be done."""
LOOK = 0.1
"""Seconds between two attempts to take the lock, with jitter."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who has the database."""

    pid: int
    command: str
    socket: str = ""
    """Where it answers questions; empty where it does not."""


class Taken(AnalyticsError):
    """Another process has the database."""

    def __init__(self, folder: Path, owner: Owner) -> None:
        super().__init__(
            f"{folder}: process {owner.pid} (`{owner.command}`) has the database open; try again when it is done, or "
            f"end it: kill {owner.pid}"
        )
        self.owner = owner


class Unwritable(AnalyticsError):
    """The database lies where nothing can be written."""

    def __init__(self, folder: Path, error: OSError) -> None:
        super().__init__(
            f"{folder}: it cannot be written here ({error.strerror}); mend its permissions, or name another folder: "
            "ESPER_ANALYTICS=chdb:////FOLDER"
        )


@contextmanager
def owning(folder: Path, *, socket: str = "", patience: float = OWNER_TIMEOUT) -> Iterator[None]:
    """Have the embedded database in ``folder`` for this process alone.

    Raises Taken at once if its owner answers questions on a socket, else when one owner has had it for ``patience``
    seconds; and Unwritable.
    """
    path = lock_file(folder)
    try:
        make_folder(folder)
        descriptor = open_file(path, os.O_RDWR)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        raise Unwritable(folder, error) from error
    began, waited_for, deadline = time.monotonic(), -1, 0.0
    backoff = Backoff(LOOK, LOOK)
    try:
        while not locked(descriptor):
            owner = _read(path)
            if owner.pid and owner.pid != waited_for:
                waited_for, deadline = owner.pid, time.monotonic() + patience
            if owner.socket or time.monotonic() > (deadline or began + patience):
                raise Taken(folder, owner)
            time.sleep(backoff.pause())
        _write(descriptor, Owner(os.getpid(), " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]), socket))
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def lock_file(folder: Path) -> Path:
    """Beside the folder, since the engine minds strange files in it."""
    return folder.with_name(f"{folder.name}.lock")


def _read(path: Path) -> Owner:
    """Who has the lock; what it says is written a moment after it is taken."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Owner(**json.loads(path.read_text("utf-8")))
    return Owner(0, "unknown")


def _write(descriptor: int, owner: Owner) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(asdict(owner)).encode(), 0)
