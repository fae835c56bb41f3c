"""The loop of a training: what the user holds. Boundaries, checkpoints, rollbacks and Ctrl-C act between steps."""

from __future__ import annotations

import logging
import signal
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from torch import nn

from esper.errors import UsageError
from esper.kasmina.seed.stages import Stage
from esper.tamiyo.advice import advise
from esper.tamiyo.run.state import RunState
from esper.tolaria.trainer import Trainer

if TYPE_CHECKING:
    from prometheus_client.core import Metric

logger = logging.getLogger("esper")
_NO_MORE = object()


class Run:
    """One training. Made by ``esper.start`` and ``esper.resume``; used from one thread.

    A completed run has nothing left to do: its loops are empty and ``finish`` only returns the summary. As a context
    manager it is closed when the block is left; what ends a run, ``finish`` or an error, closes it as well.
    """

    def __init__(
        self, run_id: str, trainer: Trainer | None, state: RunState, opened: ExitStack, checked_from: int = 1
    ) -> None:
        self.run_id = run_id
        self.checked_from = checked_from
        """The first event whose bytes a resume has checked: those before its checkpoint it takes as that has them, and
        `esper verify` checks them all."""
        self._trainer = trainer
        self._state = state
        self._committed, self._step = 0, state.step
        self._iterating = False
        self._handed = False  # a batch was given out and the loop over them goes on
        self._interrupted = threading.Event()
        self._closing = weakref.finalize(self, opened.close)  # when the run is forgotten, and at exit

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if kind is None and self.status == "running":
            logger.warning("run %s is not finished; go on with esper.resume(%r, ...)", self.run_id, self.run_id)

    def close(self) -> None:
        """End the run's threads and close its log, once what was done is committed or a few seconds have passed.

        A run that was not finished stays so: ``esper.resume`` goes on with it, as after a crash. What the run says of
        itself (``state``, ``summary`` and the like) can still be asked. Closing again does nothing.
        """
        self._closing()
        if self._trainer is not None:
            self._state, self._committed = self._trainer.journal.state, self._trainer.journal.committed
            self._step = self._trainer.step
            self._trainer = None

    @property
    def state(self) -> RunState:
        """The folded run, including events that are not committed yet."""
        return self._trainer.journal.state if self._trainer else self._state

    @property
    def status(self) -> str:
        """running, paused, completed, failed or cancelled."""
        return self.state.status

    @property
    def step_number(self) -> int:
        """Steps done so far, those before a resume included."""
        return self._trainer.step if self._trainer else self._step

    @property
    def events_written(self) -> int:
        """Events that this process has committed."""
        return self._trainer.journal.committed if self._trainer else self._committed

    def epochs(self, count: int) -> Iterator[int]:
        """Yield the epochs that are still to be done of ``count``."""
        trainer = self._working()
        if trainer is None:
            return
        with self._pausing_on_interrupt():
            trainer.cursor.enter_epochs()
            while trainer.cursor.epoch < count:
                self._iterating = False
                yield trainer.cursor.epoch
                self._still()
                with self._closing_on_error():
                    trainer.end_epoch(self._interrupted.is_set())

    def batches(self, loader: Iterable[Any]) -> Iterator[Any]:
        """Yield the batches of ``loader`` that are still to be used in this epoch. Once per epoch.

        Raises UsageError when called twice, Unsupported for a loader that cannot be taken up again, DataMismatch
        when a resumed run's loader gives other data than before.
        """
        trainer = self._working()
        if trainer is None:
            return iter(())
        if self._iterating:
            raise UsageError("run.batches was called twice in one epoch; call it once for each epoch of run.epochs(n)")
        self._iterating = True
        return self._batches(trainer, loader)

    def _batches(self, trainer: Trainer, loader: Iterable[Any]) -> Iterator[Any]:
        with self._closing_on_error():
            iterator = trainer.open(loader, self._interrupted.is_set())
        try:
            while (batch := self._next(trainer, iterator)) is not _NO_MORE:
                self._handed = True
                yield batch
        finally:
            self._handed = False

    def _working(self) -> Trainer | None:
        """What does the work; None once the run has ended. Raises UsageError where it was closed before that."""
        if self._trainer is None and self.status == "running":
            raise UsageError(
                f"run {self.run_id} was closed, or ended with an error; go on with esper.resume({self.run_id!r}, ...)"
            )
        return self._trainer

    def _still(self) -> Trainer:
        """What does the work of a run that has not ended; raises UsageError."""
        trainer = self._working()
        if trainer is None:
            raise UsageError(f"run {self.run_id} is {self.status}; there is nothing to step")
        return trainer

    def _next(self, trainer: Trainer, iterator: Iterator[Any]) -> Any:
        self._still()
        with self._closing_on_error():
            trainer.between_steps(self._interrupted.is_set())
            batch = next(iterator, _NO_MORE)
            if batch is not _NO_MORE:
                trainer.cursor.used(batch)
            elif trainer.cursor.batch == 0:
                raise UsageError(
                    f"epoch {trainer.cursor.epoch} has no batches: the loader is empty, or it is an iterator that an "
                    "epoch before has used up; give run.batches a DataLoader, or an iterator made anew in each epoch"
                )
            return batch

    def step(self, batch: Any) -> float:
        """One training step: forward, backward, optimiser, seeds. Returns the mean loss.

        A loss that is not finite moves nothing; the governor acts before the next batch. Raises LossShape unless
        ``loss`` gives one number per example, UsageError outside of a loop over ``batches`` or where the optimiser is
        stepped, or gradients are computed, by somebody else as well.
        """
        trainer = self._still()
        with self._closing_on_error():
            if not self._handed:
                raise UsageError(
                    "run.step was called outside of the loop; step each batch within `for epoch in run.epochs(n): for "
                    "batch in run.batches(loader): run.step(batch)`, not in the loop of another trainer"
                )
            trainer.sole.check()
            return self._measured(trainer, batch)

    def _measured(self, trainer: Trainer, batch: Any) -> float:
        if trainer.meter is None:
            return trainer.train(batch)
        trainer.meter.begin()
        value = trainer.train(batch)
        trainer.meter.end(trainer.step, trainer.cursor.epoch, value)
        return value

    def log(self, values: Mapping[str, Any]) -> None:
        """Keep measurements of the program's own, such as ``{"val/accuracy": 0.91}``, as of the step just done.

        A value is one number: int, float, bool, or a tensor or array of one element; NaN is kept. Any number of calls
        may come between two steps; of one metric the last one counts. They are on the log from the next boundary or
        checkpoint on. What a resumed run logs again of steps before the crash is not compared: what the log has stays.

        Raises UsageError, and keeps nothing of ``values``, if one is no number or the metrics of the run would be too
        many.
        """
        self._still().log(values)

    def finish(self, test: Callable[[nn.Module], Mapping[str, float]] | None = None) -> dict[str, Any]:
        """Measure ``test(model)``, complete the run and wait until all of it is committed. Returns ``summary()``."""
        trainer = self._working()
        if trainer is not None:
            with self._closing_on_error():
                trainer.finish(test, self._interrupted.is_set())
            self.close()
            self._tell_why_nothing_was_kept()
        return self.summary()

    def _tell_why_nothing_was_kept(self) -> None:
        """The first thing to do about a run that has not grown, in one line."""
        if Stage.FOSSILISED.value not in self.state.stages() and (found := advise(self.state)):
            first, run_id = found[0], self.run_id
            logger.warning(
                "run %s kept no seed: %s: %s; %s (esper explain %s)",
                run_id,
                first.name,
                first.what,
                first.change,
                run_id,
            )

    def metrics(self) -> Iterator[Metric]:
        """What Prometheus reads of this run, for ``esper.nissa.prometheus.serving``; any thread may ask.

        Raises ExtraMissing without the extra ``metrics``.
        """
        from esper.nissa.prometheus import of_run

        trainer = self._trainer
        if trainer is None:
            return of_run(self._state, self._step, self._committed, 0)
        dropped = 0 if trainer.meter is None else trainer.meter.dropped
        return of_run(trainer.journal.latest, trainer.step, trainer.journal.committed, dropped)

    def summary(self) -> dict[str, Any]:
        """The run in a few plain values; ``test_accuracy`` is None unless the test measured ``accuracy``."""
        return self.state.summary()

    @contextmanager
    def _closing_on_error(self) -> Iterator[None]:
        """After an error the run is as it is after a crash: what was committed stands, and ``resume`` goes on."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    @contextmanager
    def _pausing_on_interrupt(self) -> Iterator[None]:
        """The first Ctrl-C pauses the run at the next batch; a second one interrupts at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT)

        def interrupt(number: int, frame: FrameType | None) -> None:
            if self._interrupted.is_set():
                raise KeyboardInterrupt
            self._interrupted.set()
            logger.warning("run %s pauses after this step; Ctrl-C again to stop at once", self.run_id)

        signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            if signal.getsignal(signal.SIGINT) is interrupt:
                signal.signal(signal.SIGINT, before)
