"""Whether SQLite's write-ahead log holds what was committed: from a damaged frame on SQLite drops all, in silence.

The file format is SQLite's (sqlite.org/fileformat2.html, "The Write-Ahead Log"; walformat.html for the index).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from esper.errors import LogError
from esper.system.private import open_file, sync_folder

HEADER, FRAME = 32, 24
LOOKS = 5
_MAGIC = 0x377F0682


class _Frame(NamedTuple):
    number: int
    salts: bytes
    commits: bool


class Claim(NamedTuple):
    """What the index beside the database says was committed: up to which frame of the log with these salts; the first
    ``flushed`` of them are in the database's file, too."""

    end: int
    salts: bytes
    flushed: int


def claimed(path: Path) -> Claim | None:
    """What was committed, as far as the index of the database at ``path`` says, or said when damage was found; None if
    nothing does. What the index says is lost once somebody has opened the database."""
    found = [each for each in (_indexed(path), _noted(path)) if each is not None]
    salts = found[0].salts if found else b""
    return max((each for each in found if each.salts == salts), default=None)


def note(path: Path, claim: Claim) -> None:
    """Keep what the index said before the damage was found, so that it is found again."""
    with suppress(OSError), os.fdopen(open_file(_note(path), os.O_WRONLY | os.O_TRUNC), "wb") as file:
        file.write(struct.pack(">2I", claim.end, claim.flushed) + claim.salts)


def forget(path: Path) -> None:
    """Remove what was noted: nothing is damaged any more."""
    with suppress(OSError):
        _note(path).unlink()


def _note(path: Path) -> Path:
    return Path(f"{path}-claim")


def _noted(path: Path) -> Claim | None:
    """The note, if it is of the log that is there now."""
    try:
        kept = _note(path).read_bytes()
    except OSError:
        return None
    head = _read(Path(f"{path}-wal"), HEADER)
    if len(kept) != 16 or head[16:24] != kept[8:]:
        return None
    end, flushed = struct.unpack(">2I", kept[:8])
    return Claim(end, kept[8:], flushed)


def _read(wal: Path, size: int = -1) -> bytes:
    """What the file begins with; nothing where there is none."""
    try:
        with wal.open("rb") as file:
            return file.read(size)
    except FileNotFoundError:
        return b""


def _indexed(path: Path) -> Claim | None:
    """What the index says; None if there is none, or it is just being changed."""
    # By another process: where this one closed the file, all its connections would lose their locks on it (POSIX).
    command = shutil.which("head", path=os.defpath)
    if command is None or not Path(f"{path}-shm").exists():
        return None
    done = subprocess.run([command, "-c", "100", f"{path}-shm"], capture_output=True, check=False, close_fds=False)
    head = done.stdout
    if len(head) < 100 or head[:48] != head[48:96] or not head[12]:
        return None
    return Claim(struct.unpack("=I", head[16:20])[0], head[32:40], struct.unpack("=I", head[96:100])[0])


def dropped(path: Path, before: Claim | None, *, in_memory: bool = False) -> str | None:
    """What is wrong with the ``-wal`` file of the database at ``path``, now that a connection has opened it; None if
    nothing is. ``before`` is what was claimed before that. With ``in_memory`` the connection has an index of its own,
    and that beside the file says what another had.

    Damage to the last transaction cannot be told from one that was cut off while it was written, which is nothing
    wrong, unless ``before`` tells: the index is changed once a transaction is on disk.
    """
    wal = _read(Path(f"{path}-wal"))
    frames = list(_frames(wal))
    now = None if in_memory else _indexed(path)  # after the frames: what was committed since is behind them
    if not frames:
        return None
    if not _is_header(wal):
        return "its header is damaged, so nothing that it holds would count"
    return _told(wal, frames, _end(wal, frames) if now is None else now.end, before)


def gone(path: Path) -> str | None:
    """What is wrong where there are no frames, though the index of the database at ``path``, which nobody has opened
    yet, tells of some that are nowhere else; or where the file is empty that the frames are about: SQLite would forget
    them then. None if nothing is."""
    wal = Path(f"{path}-wal")
    lost = 0
    for _ in range(LOOKS):  # another process may just be closing it, which removes the one after the other
        framed = len(_read(wal, HEADER + FRAME)) == HEADER + FRAME
        if framed and not (path.exists() and path.stat().st_size):
            return f"{path.name} is empty, though this holds what was written to it"
        claim = None if framed else _indexed(path)
        if claim is None or claim.end <= claim.flushed:
            return None
        lost = claim.end - claim.flushed
        time.sleep(0.02)
    return f"what it held is gone: {lost} frames that were not in {path.name} yet"


def _told(wal: bytes, frames: list[_Frame], end: int, before: Claim | None) -> str | None:
    """What is wrong where only the first ``end`` of the ``frames`` count."""
    ours = [frame for frame in frames if _near(frame.salts, wal[16:24]) and frame.number > end]
    lost = sum(frame.commits for frame in ours if frame.number < ours[-1].number)
    if before is not None and before.salts == wal[16:24] and before.end > end:
        gone = before.end - max(end, len(frames))
        if gone > 0:
            return f"its end is gone from frame {end} on, with what was committed in {before.end - end} frames"
        lost = max(lost, 1)
    what = f"{lost} committed transactions" if lost > 1 else "a committed transaction"
    return f"it is damaged behind frame {end}, so {what} would not count" if lost else None


def mend(path: Path) -> str | None:
    """Have what lies before the damage count, and say what was done; None if nothing is damaged, or nothing is there.

    What the file was is kept beside it. Raises LogError while another process has the database open.
    """
    wal = Path(f"{path}-wal")
    data, before = _read(wal), claimed(path)
    frames = list(_frames(data))
    whole = bool(frames) and _is_header(data)
    end = _end(data, frames) if whole else 0
    if gone(path) is None and (not frames or (whole and _told(data, frames, end, before) is None)):
        return None
    if frames and not (path.exists() and path.stat().st_size):
        raise LogError(f"{path}: it is empty; restore it from a copy, with its -wal")
    _check_idle(path)
    kept = next(each for number in range(1_000_000) if not (each := Path(f"{wal}.damaged{number or ''}")).exists())
    with os.fdopen(open_file(kept, os.O_WRONLY | os.O_EXCL), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    size = FRAME + (int.from_bytes(data[8:12], "big") or 65536)
    if data:
        os.truncate(wal, HEADER + end * size if end else 0)
    for beside in (Path(f"{path}-shm"), _note(path)):
        beside.unlink(missing_ok=True)
    sync_folder(path.parent)
    return f"{wal}: cut behind frame {end}, where the damage begins; what it was is in {kept.name}"


def _check_idle(path: Path) -> None:
    """Raise LogError if a process has the database open: each has a lock on the index (SQLITE_SHM_DMS)."""
    try:
        descriptor = os.open(f"{path}-shm", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 128)
    except OSError as error:
        raise LogError(f"{path}: another process has it open; end that first, then repair it") from error
    finally:
        os.close(descriptor)


def _frames(wal: bytes) -> Iterator[_Frame]:
    """The headers of all frames, whoever wrote them."""
    if len(wal) < HEADER:
        return
    size = FRAME + (int.from_bytes(wal[8:12], "big") or 65536)
    for number, place in enumerate(range(HEADER, len(wal) - FRAME + 1, max(size, FRAME + 512)), start=1):
        yield _Frame(number, wal[place + 8 : place + 16], wal[place + 4 : place + 8] != b"\0\0\0\0")


def _near(salts: bytes, others: bytes) -> bool:
    """Whether they are the same, but for a bit or two: the salts of another log are altogether others."""
    return (int.from_bytes(salts, "big") ^ int.from_bytes(others, "big")).bit_count() <= 2


def _is_header(wal: bytes) -> bool:
    """Whether the header's checksum is right."""
    words = struct.unpack(">8I", wal[:HEADER])
    return words[0] & ~1 == _MAGIC and _checksum(wal, wal[:24], (0, 0)) == words[6:8]


def _end(wal: bytes, frames: list[_Frame]) -> int:
    """The last frame of the last transaction that counts, by the frames' checksums."""
    end, size = 0, FRAME + (int.from_bytes(wal[8:12], "big") or 65536)
    total = struct.unpack(">2I", wal[24:HEADER])
    for frame in frames:
        place = HEADER + (frame.number - 1) * size
        data = wal[place : place + size]
        total = _checksum(wal, data[:8] + data[FRAME:], total)
        if frame.salts != wal[16:24] or len(data) != size or total != struct.unpack(">2I", data[16:FRAME]):
            break
        end = frame.number if frame.commits else end
    return end


def _checksum(wal: bytes, data: bytes, start: tuple[int, ...]) -> tuple[int, ...]:
    """SQLite's, over pairs of words whose order of bytes the file's first word says."""
    first, second = start
    words = struct.unpack(f"{'>' if wal[3] & 1 else '<'}{len(data) // 4}I", data[: len(data) // 8 * 8])
    for one, two in zip(words[::2], words[1::2], strict=True):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + two + first) & 0xFFFFFFFF
    return first, second
