"""Whether SQLite's write-ahead log holds what was committed: from a damaged frame on SQLite drops all, in silence.

The file format is SQLite's (sqlite.org/fileformat2.html, "The Write-Ahead Log"; walformat.html for the index).
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HEADER, FRAME = 32, 24
_MAGIC = 0x377F0682


class _Frame(NamedTuple):
    number: int
    salts: bytes
    commits: bool


class Claim(NamedTuple):
    """What the index beside the database says was committed: up to which frame of the log with these salts."""

    end: int
    salts: bytes


def claimed(path: Path) -> Claim | None:
    """What the index of the database at ``path`` says; None if there is none, or it is just being changed. What it was
    before anyone opened the database is lost once somebody has."""
    wal = Path(f"{path}-wal")
    if not wal.exists() or not wal.stat().st_size:
        return None
    # By another process: where this one closed the file, all its connections would lose their locks on it (POSIX).
    command = ["head", "-c", "96", f"{path}-shm"]
    head = subprocess.run(command, capture_output=True, check=False, close_fds=False).stdout
    if len(head) < 96 or head[:48] != head[48:96] or not head[12]:
        return None
    return Claim(struct.unpack("=I", head[16:20])[0], head[32:40])


def dropped(path: Path, before: Claim | None) -> str | None:
    """What is wrong with the ``-wal`` file of the database at ``path``, now that a connection has opened it; None if
    nothing is. ``before`` is what was claimed before that.

    Damage to the last transaction cannot be told from one that was cut off while it was written, which is nothing
    wrong, unless ``before`` tells: the index is changed once a transaction is on disk.
    """
    try:
        wal = Path(f"{path}-wal").read_bytes()
    except FileNotFoundError:
        return None
    frames = list(_frames(wal))
    now = claimed(path)  # after the frames: what was committed since is behind them
    if not frames:
        return None
    if not _is_header(wal):
        return "its header is damaged, so nothing that it holds would count"
    end = _end(wal, frames) if now is None else now.end  # no index: it is in the reader's memory
    ours = [frame for frame in frames if frame.salts == wal[16:24] and frame.number > end]
    lost = sum(frame.commits for frame in ours if frame.number < ours[-1].number)
    if before is not None and before.salts == wal[16:24] and before.end > end:
        lost = max(lost, 1)
    what = f"{lost} committed transactions" if lost > 1 else "a committed transaction"
    return f"it is damaged behind frame {end}, so {what} would not count" if lost else None


def _frames(wal: bytes) -> Iterator[_Frame]:
    """The headers of all frames, whoever wrote them."""
    if len(wal) < HEADER:
        return
    size = FRAME + (int.from_bytes(wal[8:12], "big") or 65536)
    for number, place in enumerate(range(HEADER, len(wal) - FRAME + 1, max(size, FRAME + 512)), start=1):
        yield _Frame(number, wal[place + 8 : place + 16], wal[place + 4 : place + 8] != b"\0\0\0\0")


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
