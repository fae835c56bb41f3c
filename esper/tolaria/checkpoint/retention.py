"""Which checkpoints a run has: taken in the background, committed by events, retired by events, then deleted."""

from __future__ import annotations

from esper.errors import CorruptArtifact
from esper.events.runs import CheckpointCommitted, CheckpointRetired
from esper.tamiyo.rules import checkpoints
from esper.tolaria.checkpoint.store import Loaded, Snapshot
from esper.tolaria.checkpoint.writer import CheckpointWriter
from esper.tolaria.journal.journal import Journal


class Retention:
    """The training thread's side of checkpoints. ``due`` is the step of the newest that the governor may go back to;
    ``keep`` is how many are kept besides those still needed."""

    def __init__(self, writer: CheckpointWriter, journal: Journal, keep: int) -> None:
        self.due = 0
        self._writer, self._journal, self._keep = writer, journal, keep

    def take(self, snap: Snapshot) -> None:
        """Write a checkpoint in the background, unless a former process took it and its events are replayed."""
        if not any(
            each.step == snap.step and each.reason != checkpoints.PAUSE for each in self._journal.state.checkpoints
        ):
            self._writer.take(snap)

    def commit(self, wait: bool = False) -> None:
        """Append the events of checkpoints that are on disk; with ``wait``, of all that were taken, and until these
        are committed. Files of a retired checkpoint are deleted once its event is committed."""
        done = self._writer.finished(wait)
        if done:
            transaction = self._journal.transaction()
            for snap, written, seconds in done:
                transaction.add(
                    CheckpointCommitted(
                        step=snap.step,
                        manifest=written.manifest,
                        sequence=snap.sequence,
                        reason=",".join(snap.reasons),
                        size=written.size,
                        fold=written.fold,
                        measured={"seconds": seconds},
                    )
                )
            gone = checkpoints.expendable(transaction.state, self._keep, self.due)
            for old in gone:
                transaction.add(CheckpointRetired(step=old.step, manifest=old.manifest))
            transaction.then = lambda: self.remove([old.manifest for old in gone])
            self._journal.submit(transaction)
        if wait:
            self._journal.wait()

    def read(self, step: int) -> Loaded:
        """The committed checkpoint of ``step``; raises CorruptArtifact."""
        committed = [each for each in self._journal.state.checkpoints if each.step == step]
        if not committed:
            raise CorruptArtifact(f"the checkpoint of step {step} is not there; restore the artifacts from a backup")
        return self._writer.read(committed[-1].manifest)

    def close(self) -> None:
        """Wait until what was taken is written and what was to be removed is, then end the writing thread. Commits
        nothing."""
        self._writer.close()

    def remove(self, manifests: list[str]) -> None:
        """Delete the files of retired checkpoints, in the background; what cannot be is left to the next resume."""
        for manifest in manifests:
            self._writer.remove(manifest)
