"""Data files are used only if their SHA-256 is the expected one. Imports no torch."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from esper.errors import DataUnavailable
from esper.events.runs import DataFile


def dataset_cache() -> Path:
    """Where set-up unpacks data packages: ``esper/datasets`` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "esper" / "datasets"


def read_checked(path: Path, sha256: str, remedy: str) -> tuple[bytes, DataFile]:
    """The bytes of a data file and its name with the digest; raises DataUnavailable, which ends with ``remedy``."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataUnavailable(f"{path} cannot be read ({error.strerror}); {remedy}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise DataUnavailable(f"{path} has SHA-256 {found[:12]}..., not {sha256[:12]}...; it is damaged: {remedy}")
    return content, DataFile(name=path.name, sha256=found)
