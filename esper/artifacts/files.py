"""The artifact store as files in one folder."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from esper.artifacts.port import Stored, checked, is_key
from esper.errors import CorruptArtifact, EsperError
from esper.system.locks import locked, share
from esper.system.private import make_folder, open_file, sync_folder

_TEMPORARY, _LOCK = ".tmp-", ".writers"
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
        """See ``ArtifactStore.put``: written aside, flushed to the disk (fsync), then renamed. EsperError says what
        failed."""
        path = self._folder / checked(key)
        try:
            make_folder(path.parent)
            if path.parent not in self._swept:
                self._swept.add(path.parent)
                _sweep(path.parent)
            if _holds(path, data):
                os.utime(path)  # it is needed from now on: no repair may take it for what was left long ago
            else:
                _write(path, data)
            # Even when it was there: whoever renamed it may not have come as far as this.
            sync_folder(path.parent)
        except OSError as error:
            raise EsperError(
                f"artifact {key} could not be written to {self._folder} ({error.strerror or error}); "
                "make room or mend the folder's permissions, then resume"
            ) from error

    def get(self, key: str, sha256: str) -> bytes:
        """See ``ArtifactStore.get``. A file that is there but cannot be read is an EsperError, not a corrupt
        artifact."""
        with self._reading(key):
            data = self._file(key).read_bytes()
        self._compare(key, hashlib.sha256(data).hexdigest(), sha256)
        return data

    def check(self, key: str, sha256: str) -> int:
        """See ``ArtifactStore.check``: the file is hashed piece by piece."""
        with self._reading(key), open(self._file(key), "rb") as file:
            found, size = hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
        self._compare(key, found, sha256)
        return size

    def exists(self, key: str) -> bool:
        """Whether a regular file lies under ``key``; what it holds is not looked at."""
        return (self._folder / checked(key)).is_file()

    def delete(self, key: str) -> None:
        """See ``ArtifactStore.delete``; the folders above it stay."""
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
        """See ``ArtifactStore.keys``: paths relative to the folder, without names that begin with a dot."""
        found = (
            (Path(folder) / name).relative_to(self._folder).as_posix()
            for folder, _, names in os.walk(self._folder / prefix.rpartition("/")[0])
            for name in names
            if not name.startswith(".")
        )
        for key in sorted(key for key in found if key.startswith(prefix) and is_key(key)):
            if self.exists(key):  # and is no pipe, nor a link to nowhere
                yield key

    def stored(self, prefix: str = "") -> Iterator[Stored]:
        """See ``ArtifactStore.stored``; the age is that of the file's modification time."""
        for key in self.keys(prefix):
            with suppress(FileNotFoundError):
                found = (self._folder / key).stat()
                yield Stored(key, found.st_size, time.time() - found.st_mtime)

    def sweep(self, older: float) -> int:
        """See ``ArtifactStore.sweep``, in all folders."""
        return sum(_sweep(Path(folder), older) for folder, _, _ in os.walk(self._folder))

    @contextmanager
    def writing(self, folder: str) -> Iterator[None]:
        """See ``ArtifactStore.writing``: a shared flock on a file in ``folder``."""
        with self._lock(folder) as descriptor:
            share(descriptor)
            yield

    @contextmanager
    def alone(self, folder: str) -> Iterator[bool]:
        """See ``ArtifactStore.alone``: an exclusive flock on the same file, which is not waited for."""
        with self._lock(folder) as descriptor:
            yield locked(descriptor)

    @contextmanager
    def _lock(self, folder: str) -> Iterator[int]:
        """The open lock of a folder. Only the kernel knows who holds it: it goes with the process."""
        path = self._folder / checked(folder) / _LOCK
        try:
            make_folder(path.parent)
            descriptor = open_file(path, os.O_RDWR)
        except OSError as error:
            raise EsperError(
                f"{path.parent} cannot be written ({error.strerror or error}); mend the folder's permissions"
            ) from error
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError) as error:
            raise CorruptArtifact(f"artifact {key} is missing from {self._folder}; put back a copy of it") from error
        except OSError as error:
            # Not corrupt: whoever catches that deletes the file.
            raise EsperError(
                f"artifact {key} could not be read from {self._folder} ({error.strerror or error}); "
                "mend the disk or the file's permissions, then try again"
            ) from error

    def _file(self, key: str) -> Path:
        """Where it lies; raises FileNotFoundError where reading might wait for ever, as at a pipe."""
        path = self._folder / checked(key)
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise FileNotFoundError(path)
        return path

    def _compare(self, key: str, found: str, sha256: str) -> None:
        if found != sha256:
            raise CorruptArtifact(
                f"artifact {key} in {self._folder} is damaged: its SHA-256 is not {sha256[:12]}…; put back a copy of it"
            )


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


def _sweep(folder: Path, older: float = _ABANDONED_AFTER) -> int:
    """Remove what was left half written there more than ``older`` seconds ago; returns its bytes."""
    gone = 0
    for path in folder.glob(f"{_TEMPORARY}*"):
        with suppress(FileNotFoundError):
            found = path.stat()
            if time.time() - found.st_mtime > older:
                path.unlink()
                gone += found.st_size
    return gone
