"""File locks (flock), which the operating system frees when the process that has them ends, however it ends."""

from __future__ import annotations

import fcntl


def share(descriptor: int) -> None:
    """Lock the open file together with all who share it; waits until nobody has it alone."""
    fcntl.flock(descriptor, fcntl.LOCK_SH)


def locked(descriptor: int) -> bool:
    """Lock the open file, unless another has it; it is free again when the file is closed."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
