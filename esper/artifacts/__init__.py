"""The artifact store: the bytes of checkpoints and kernels, which lie beside the log; ``port`` says what a store
offers."""

from __future__ import annotations

from pathlib import Path

from esper.artifacts.files import FileStore
from esper.artifacts.port import ArtifactStore
from esper.errors import UsageError

__all__ = ["ArtifactStore", "open_store"]


def open_store(url: str) -> ArtifactStore:
    """The store at ``file:///relative/folder`` or ``file:////absolute/folder``; raises UsageError.

    As in the log's URL, the path is what follows the third slash.
    """
    scheme, _, path = url.partition(":///")
    if scheme != "file" or not path:
        raise UsageError(f"{url!r} is no artifact store; write file:///relative/folder or file:////absolute/folder")
    return FileStore(url, Path(path))
