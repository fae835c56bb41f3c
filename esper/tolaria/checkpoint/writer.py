"""Checkpoints written in the background from a copy; committed, retired and read by the training thread."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from esper.artifacts.port import ArtifactStore
from esper.errors import CorruptArtifact
from esper.tolaria.checkpoint.store import Checkpoints, Loaded, Snapshot, Written

logger = logging.getLogger("esper")
IN_FLIGHT = 2  # copies of the state held at once


class CheckpointWriter:
    """The checkpoints of one run."""

    def __init__(self, store: ArtifactStore, run_id: str) -> None:
        self._files = Checkpoints(store, run_id)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="esper-checkpoint")
        self._writing: list[tuple[Snapshot, float, Future[Written]]] = []

    def take(self, snap: Snapshot) -> None:
        """Write it in the background. Waits when two are being written."""
        if len(self._writing) >= IN_FLIGHT:
            self._writing[0][2].exception()
        self._writing.append((snap, time.monotonic(), self._thread.submit(self._files.write, snap)))

    def finished(self, wait: bool = False) -> list[tuple[Snapshot, Written, float]]:
        """What has been written since the last call, oldest first, with the seconds it took.

        Raises what its writing raised.
        """
        done = []
        while self._writing and (wait or self._writing[0][2].done()):
            snap, began, future = self._writing[0]
            written = future.result()
            self._writing.pop(0)
            done.append((snap, written, time.monotonic() - began))
        return done

    def read(self, manifest: str) -> Loaded:
        """A committed checkpoint, verified; raises CorruptArtifact."""
        return self._thread.submit(self._files.read, manifest).result()

    def adopt(self, manifests: Iterable[str]) -> list[str]:
        """Take over committed checkpoints; returns the manifests whose files are missing or wrong."""
        corrupt = []
        for manifest in manifests:
            try:
                self._files.adopt(manifest)
            except CorruptArtifact:
                corrupt.append(manifest)
        return corrupt

    def clean(self) -> Future[None]:
        """Delete files of the run that no checkpoint refers to, in the background and after what is being written."""
        return self._told(self._thread.submit(self._files.clean))

    def remove(self, manifest: str) -> Future[None]:
        """Delete a retired checkpoint's files, in the background and after what is being written."""
        return self._told(self._thread.submit(self._files.remove, manifest))

    def _told(self, removal: Future[None]) -> Future[None]:
        removal.add_done_callback(_tell)
        return removal

    def close(self) -> None:
        """Wait until everything that was begun is done, and end the thread."""
        self._thread.shutdown(wait=True)


def _tell(removal: Future[None]) -> None:
    """Say that files could not be deleted: the next resume tries again."""
    if not removal.cancelled() and removal.exception() is not None:
        logger.warning("files that no checkpoint needs were left: %s", removal.exception())
