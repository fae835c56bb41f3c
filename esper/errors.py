"""The errors of Esper. Each is one line that names the thing and the remedy.

EsperError
├── UsageError              wrong arguments or settings (exit 2)
├── ExtraMissing            a package is not installed that an extra brings
├── RunExists               start() of a run that is there
├── RunNotFound
├── RunUnusable             failed, cancelled, or written by something newer
├── ModelMismatch           the model, optimiser or state is not the run's
├── DataMismatch            the loader or gate gave other data than last time
├── LossShape               the loss did not give one number per example
├── Unsupported             an optimiser, loader or wrapper that Esper refuses
├── TrainingFailed          the governor gave up
├── EnvironmentMismatch     another torch, device or CPU
├── ReplayDivergence        a re-run step did not give the logged digest
├── CorruptArtifact         a file is missing or its digest is wrong
├── DataUnavailable         a data set is not installed or not the right one
├── ClusterUnavailable      the broker or registry on this machine could not be fetched or started
├── WorkerFailed            a worker that keeps the views ended before it was told to
├── AnalyticsError          ClickHouse could not be reached, filled or asked
├── LogError                the log could not be read or written
│   ├── Fenced              another trainer took the run over
│   ├── WriterLost          the log gave the writer up, though no other took over
│   ├── LogRefused          it answers, but a right is missing or a schema does not fit
│   ├── RecordTooLarge      one record is bigger than any log takes
│   └── Disordered          a run cannot be read to its end
│       ├── SequenceGap     events are missing
│       │   └── Quarantined one of them is there but cannot be read
│       └── SequenceConflict  a fork, or a chain that does not hold
└── DecodeError             a record that this version cannot read

RunEnded (a SystemExit with code 0): the run was paused or stopped in good order.
"""

from __future__ import annotations


class EsperError(Exception):
    """Base of all errors that Esper raises on purpose."""


class UsageError(EsperError):
    """Arguments, settings or names that Esper cannot take; a command exits with 2."""


class ExtraMissing(EsperError):
    """A package that an extra brings is not installed."""


class RunExists(EsperError):
    """A run cannot begin, or be copied, under a name that the log has already."""


class RunNotFound(EsperError):
    """The log has no run of this name."""


class RunUnusable(EsperError):
    """The run cannot do what was asked: it has ended or paused, or this version of Esper cannot read or continue it."""


class ModelMismatch(EsperError):
    """The model, the optimiser, the state or the weights are not those of the run."""


class DataMismatch(EsperError):
    """The loader or the gate data gave other data than the run had before."""


class LossShape(EsperError):
    """The loss did not give a tensor with one number for each example."""


class Unsupported(EsperError):
    """A model, optimiser, loader or wrapper that Esper cannot train, or a way of running it."""


class TrainingFailed(EsperError):
    """The run ended as failed: going back to a checkpoint did not help, or there was none to go back to."""


class EnvironmentMismatch(EsperError):
    """What decides the bits (torch, device, CPU, threads) is not as it was; a resume that is ``inexact`` goes on all
    the same."""


class ReplayDivergence(EsperError):
    """A step that was run again did not give the digest that the log has of it."""


class CorruptArtifact(EsperError):
    """A file of the artifact store is missing, or its SHA-256 is another than its name or its event says."""


class DataUnavailable(EsperError):
    """A built-in task's data set is not installed, or its files are not the expected ones."""


class ClusterUnavailable(EsperError):
    """Kafka or the schema registry on this machine could not be fetched, started or reached."""


class WorkerFailed(EsperError):
    """A worker that keeps the views ended before it was told to."""


class AnalyticsError(EsperError):
    """ClickHouse could not be reached, filled or asked; it is told in ClickHouse's own words where there are any."""


class LogError(EsperError):
    """The log could not be read or written; what helps is in the message."""


class Fenced(LogError):
    """Another trainer opened the run. ``epoch`` is the newer one's."""

    def __init__(self, run_id: str, epoch: int) -> None:
        super().__init__(
            f"run {run_id}: another trainer took over with epoch {epoch}; this one stops and writes nothing more"
        )
        self.run_id, self.epoch = run_id, epoch


class WriterLost(LogError):
    """The writer is of no use any more, and whether its last append was committed is unknown.

    Open another writer, read the run, write what is missing.
    """


class LogRefused(LogError):
    """Waiting does not help: a right is missing, or a schema could not read what was written before."""


class RecordTooLarge(LogError):
    """A record is larger than ``esper.log.port.MAX_BYTES``; nothing was written."""


class Disordered(LogError):
    """A run cannot be read to its end. ``positions`` are those of the records, one of which may be none of its events,
    as far as that can be told."""

    def __init__(self, message: str, *positions: object) -> None:
        super().__init__(message)
        self.positions = tuple(map(str, positions))


class SequenceGap(Disordered):
    """An event of the run is missing: the next one has a number too high, on the log or among those to be written."""


class Quarantined(SequenceGap):
    """An event of the run cannot be read, so nothing after it counts. ``position`` is where it lies, as text."""

    def __init__(self, run_id: str, sequence: int, position: str, error: str) -> None:
        super().__init__(
            f"run {run_id} is quarantined: its event {sequence} at {position} cannot be read ({error}); mend the "
            f"reader or its schemas, then `esper dlq redrive {position}`; if it is damaged (`esper check`), take it "
            f"out, and all that follows, with `esper dlq exclude {position} --why TEXT`",
            position,
        )
        self.run_id, self.sequence, self.position = run_id, sequence, position


class SequenceConflict(Disordered):
    """Two different records claim one place or one id, or an event does not follow on the digest of the one before."""


class DecodeError(EsperError):
    """A record, or a part of one, cannot be read by this version of Esper: it is damaged, foreign or newer."""


class RunEnded(SystemExit):
    """The run was paused or stopped in good order; a program that does not catch it exits with code 0."""

    def __init__(self, run_id: str, status: str, message: str) -> None:
        super().__init__(0)
        self.run_id, self.status, self.message = run_id, status, message

    def __str__(self) -> str:
        return self.message
