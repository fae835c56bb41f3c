"""How long this thread was ready to run and had no core: what several threads on busy cores do to each other."""

from __future__ import annotations

import threading
from pathlib import Path


def waited() -> float | None:
    """Seconds that the calling thread has waited for a core since it began; None where the system does not tell.

    Source: Linux's ``/proc/PID/task/TID/schedstat``, whose second number is nanoseconds on a run queue.
    """
    try:
        _, on_queue, _ = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").read_text().split()
    except (OSError, ValueError):
        return None
    return int(on_queue) / 1e9
