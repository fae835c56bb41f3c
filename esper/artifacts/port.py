"""The port of the artifact store: named bytes that never change, such as kernels and the parts of checkpoints."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from esper.errors import UsageError

_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_LONGEST = 512


class Stored(NamedTuple):
    """An artifact's key, its bytes, and the seconds since it was written."""

    key: str
    size: int
    age: float


class ArtifactStore(Protocol):
    """Bytes under keys, which are relative POSIX paths. Methods may be called from any thread and any process.

    Every method raises UsageError for a key that ``checked`` refuses, and EsperError if the store does not work.
    """

    url: str

    def put(self, key: str, data: bytes) -> None:
        """Hold ``data`` under ``key``, durably when it returns. A reader sees all of it or nothing; doing it
        again changes nothing, and mends an artifact that was damaged."""

    def get(self, key: str, sha256: str) -> bytes:
        """The bytes under ``key``; raises CorruptArtifact if it is missing or its SHA-256 (hex) is another."""

    def check(self, key: str, sha256: str) -> int:
        """The number of bytes under ``key``; raises as ``get`` does, which holds them all at once."""

    def exists(self, key: str) -> bool:
        """Whether there is an artifact ``key``; it may be damaged."""

    def delete(self, key: str) -> None:
        """Remove ``key``; one that is not there is no error."""

    def keys(self, prefix: str = "") -> Iterator[str]:
        """All keys that begin with the text ``prefix``, in order."""

    def stored(self, prefix: str = "") -> Iterator[Stored]:
        """As ``keys``, with how much each holds and for how long."""

    def sweep(self, older: float) -> int:
        """Remove what was left half written more than ``older`` seconds ago; returns its bytes."""

    def writing(self, folder: str) -> AbstractContextManager[None]:
        """Within it, nobody has ``folder`` alone; waits until that is so. Whoever writes there holds it."""

    def alone(self, folder: str) -> AbstractContextManager[bool]:
        """Within it, nobody writes in ``folder``; gives False, and holds nothing, where somebody does."""


def is_key(key: str) -> bool:
    """Whether ``key`` is one."""
    return len(key) <= _LONGEST and _KEY.fullmatch(key) is not None


def checked(key: str) -> str:
    """``key`` itself, if it is one: letters, digits and ``._-`` between slashes, no part beginning with a dot.

    Raises UsageError.
    """
    if not is_key(key):
        raise UsageError(
            f"{key[:80]!r} is not an artifact's key; use letters, digits and ._- between single slashes, "
            f"no part beginning with a dot, {_LONGEST} characters at most"
        )
    return key
