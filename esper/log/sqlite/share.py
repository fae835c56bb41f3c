"""Shares an embedded log between processes: one has all its partitions, the others wait until that one ends."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from esper.errors import LogError
from esper.events.topics import PARTITIONS
from esper.log.port import ShareChange
from esper.system.locks import locked
from esper.system.private import make_folder, open_file

LOOK = 0.1
"""Seconds between two attempts to take the lock."""


class LockedShare:
    """See ``esper.log.port.Share``. Who has the lock is the kernel's to say, so it goes with its process."""

    def __init__(self, path: Path, topics: Sequence[str]) -> None:
        self._path, self._topics = path, topics
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def poll(self, wait: float = 0.0, done: Mapping[str, Mapping[int, int]] | None = None) -> ShareChange:
        """See ``Share.poll``: all partitions of all topics once the lock is taken, and no loss after that."""
        deadline = time.monotonic() + wait
        if self._descriptor is None:
            while not self._locked():
                if time.monotonic() >= deadline:
                    return ShareChange({}, {})
                time.sleep(min(LOOK, wait))
            return ShareChange({topic: frozenset(range(PARTITIONS)) for topic in self._topics}, {})
        time.sleep(wait)
        return ShareChange({}, {})

    def sure(self) -> bool:
        """Whether this has the lock, which nobody can take away."""
        return self._descriptor is not None

    def _locked(self) -> bool:
        try:
            make_folder(self._path.parent)
            descriptor = open_file(self._path, os.O_RDWR)
        except OSError as error:
            raise LogError(f"{self._path}: {error.strerror}; whoever shares the log needs to write here") from error
        if not locked(descriptor):
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True
