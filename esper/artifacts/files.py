"""Artifacts as files under one folder."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from esper.artifacts.port import checked
from esper.errors import CorruptArtifact, EsperError
from esper.private import make_folder, open_file, sync_folder

_TEMPORARY = ".tmp-"
_ABANDONED_AFTER = 3600.0  # seconds without a write


class FileStore:
    """An ArtifactStore in ``folder``, which is made when the first artifact is put.

    A file gets its name only when it is whole and on disk. What a killed process left half written is removed
    by a later ``put`` into the same folder.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self._folder = url, folder
        self._swept: set[Path] = set()

    def put(self, key: str, data: bytes) -> None:
        path = self._folder / checked(key)
        try:
            make_folder(path.parent)
            if path.parent not in self._swept:
                self._swept.add(path.parent)
                _sweep(path.parent)
            if not _holds(path, data):
                _write(path, data)
            # Even when it was there: whoever renamed it may not have come as far as this.
            sync_folder(path.parent)
        except OSError as error:
            raise EsperError(
                f"artifact {key} could not be written to {self._folder} ({error.strerror or error}); "
                "make room or mend the folder's permissions, then resume"
            ) from error

    def get(self, key: str, sha256: str) -> bytes:
        try:
            data = (self._folder / checked(key)).read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise CorruptArtifact(f"artifact {key} is missing from {self._folder}; put back a copy of it") from error
        except OSError as error:
            # Not corrupt: whoever catches that deletes the file.
            raise EsperError(
                f"artifact {key} could not be read from {self._folder} ({error.strerror or error}); "
                "mend the disk or the file's permissions, then try again"
            ) from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise CorruptArtifact(
                f"artifact {key} in {self._folder} is damaged: its SHA-256 is not {sha256[:12]}…; put back a copy of it"
            )
        return data

    def exists(self, key: str) -> bool:
        return (self._folder / checked(key)).is_file()

    def delete(self, key: str) -> None:
        path = self._folder / checked(key)
        try:
            path.unlink(missing_ok=True)
        except NotADirectoryError:
            return
        except OSError as error:
            raise EsperError(
                f"artifact {key} could not be deleted from {self._folder} ({error.strerror or error}); "
                "mend the folder's permissions"
            ) from error

    def keys(self, prefix: str = "") -> Iterator[str]:
        found = (
            (Path(folder) / name).relative_to(self._folder).as_posix()
            for folder, _, names in os.walk(self._folder / prefix.rpartition("/")[0])
            for name in names
            if not name.startswith(".")
        )
        yield from sorted(key for key in found if key.startswith(prefix))


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except FileNotFoundError:
        return False


def _write(path: Path, data: bytes) -> None:
    temporary = path.parent / f"{_TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}"
    try:
        with open(open_file(temporary, os.O_WRONLY | os.O_EXCL), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _sweep(folder: Path) -> None:
    for path in folder.glob(f"{_TEMPORARY}*"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _ABANDONED_AFTER:
                path.unlink()
