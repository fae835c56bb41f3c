"""Processes that outlive the command that started them, known by pid *and* start time: a pid is used again."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_POLL = 0.05


@dataclass(frozen=True, slots=True)
class Process:
    """A process that was started here or by an earlier command. It may have ended."""

    pid: int
    started: str  # as this system tells it; equal for one process and no other with its pid


def spawn(command: Sequence[str], *, output: Path, environment: Mapping[str, str] | None = None) -> Process:
    """Start a program in a session of its own, so that no Ctrl-C reaches it; it writes to the file ``output``."""
    program = shutil.which(command[0]) or command[0]
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(output), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    variables = {**os.environ, **(environment or {})}
    # Not subprocess, whose object must outlive the process.
    pid = os.posix_spawn(program, list(command), variables, file_actions=files, setsid=True)
    return Process(pid, _started(pid) or "")


def alive(process: Process) -> bool:
    """Whether it still runs. One of our own that has ended is waited for, so that no zombie stays."""
    with contextlib.suppress(ChildProcessError):  # it may be a child of another
        os.waitpid(process.pid, os.WNOHANG)
    return bool(process.started) and _started(process.pid) == process.started


def send(process: Process, number: signal.Signals) -> None:
    """Signal the process; nothing happens when it has ended, even where its pid is another's now."""
    if alive(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def stop(processes: Iterable[Process], *, patience: float) -> None:
    """Ask all of them to end, wait ``patience`` seconds at most, then end them."""
    left = list(processes)
    for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 10.0)):
        for process in left:
            send(process, number)
        until = time.monotonic() + seconds
        while (left := [process for process in left if alive(process)]) and time.monotonic() < until:
            time.sleep(_POLL)


def _started(pid: int) -> str | None:
    """When the process was started; None if there is none, or only a dead one that nobody has waited for."""
    if not Path("/proc/self/stat").exists():
        listed = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return listed.stdout.strip() or None
    try:
        # The name in parentheses may hold anything; after it come the state, 17 fields on the number of threads, and
        # 19 on the ticks since boot.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    # While other threads are ending, their process still has its ports, though its first thread is dead already.
    dead = fields[0] in "ZX" and int(fields[17]) <= 1
    return None if dead else f"{boot}/{fields[19]}"
