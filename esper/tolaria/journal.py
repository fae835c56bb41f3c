"""The trainer's side of the log: transactions are built on the fold, queued, and committed by a writer thread.

The fold (``Journal.state``) holds everything submitted, so that a decision sees what came just before it. A
transaction that changes the model is *committed* before it is applied; any other is *submitted*, and training goes
on, at most ``buffer`` transactions ahead.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import random
import socket
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from uuid import UUID

from esper.errors import EsperError, Fenced, LogError, SequenceConflict, SequenceGap
from esper.events import AssetContent, RunContent
from esper.events.codec import decode
from esper.log.port import Record, Writer
from esper.log.records import asset_record, run_record
from esper.settings import LogSettings
from esper.tamiyo.fold import apply
from esper.tamiyo.state import RunState

logger = logging.getLogger("esper")
CLOSING = 5.0  # seconds that a closing journal gives its last transactions
WRITER = f"trainer/{socket.gethostname()}/{os.getpid()}"


class Transaction:
    """Events that will be committed together. ``state`` is the fold including them; ``then`` is called, in the
    writer thread, once they are committed."""

    def __init__(self, run_id: str, state: RunState, epoch: int) -> None:
        self._run_id, self._epoch = run_id, epoch
        self.state = state
        self.records: list[Record] = []
        self.contents: list[RunContent] = []
        self.then: Callable[[], None] | None = None

    def add(self, content: RunContent, causes: Sequence[UUID] = ()) -> None:
        """Append an event of the run."""
        record = run_record(
            self._run_id,
            content,
            epoch=self._epoch,
            sequence=self.state.sequence + 1,
            writer=WRITER,
            time=datetime.now(UTC),
            causes=tuple(causes),
        )
        self.state = apply(self.state, decode(record.schema, record.value))
        self.records.append(record)
        self.contents.append(content)

    def add_asset(self, content: AssetContent) -> None:
        """Append an event about a blueprint or kernel, in the same transaction."""
        self.records.append(asset_record(content, writer=WRITER, time=datetime.now(UTC)))


class Journal:
    """Commits a run's transactions in order, from one thread. Its methods belong to the training thread.

    Every method raises what made the writer thread stop: Fenced, or LogError after ``patience`` seconds without
    an answer from the log.
    """

    def __init__(self, writer: Writer, state: RunState, settings: LogSettings) -> None:
        self.state = state
        self.committed = writer.sequence  # events of the run
        self._writer, self._settings = writer, settings
        self._queue: queue.Queue[Transaction | None] = queue.Queue(settings.buffer)
        self._failure: EsperError | None = None
        self._said = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="esper-journal", daemon=True)
        self._thread.start()

    @property
    def epoch(self) -> int:
        return self._writer.epoch

    def transaction(self) -> Transaction:
        """A new transaction on the present state."""
        return Transaction(self.state.run_id, self.state, self._writer.epoch)

    def submit(self, transaction: Transaction) -> None:
        """Queue it; waits only when ``buffer`` transactions are queued."""
        self.check()
        deadline = time.monotonic() + self._settings.patience
        while True:
            try:
                self._queue.put(transaction, timeout=0.2)
                break
            except queue.Full:
                self._wait_once(deadline)
        self.state = transaction.state

    def commit(self, transaction: Transaction) -> None:
        """Queue it and wait until it, and everything before it, is committed."""
        self.submit(transaction)
        self.wait()

    def wait(self) -> None:
        """Wait until everything submitted is committed."""
        deadline = time.monotonic() + self._settings.patience
        with self._queue.all_tasks_done:
            while self._queue.unfinished_tasks and self._failure is None:
                self._queue.all_tasks_done.wait(0.2)
                if self._queue.unfinished_tasks:
                    self._wait_once(deadline)
        self.check()

    def check(self) -> None:
        """Raise what stopped the writer thread, if anything did."""
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Stop the thread, once what is queued is committed or a few seconds have passed."""
        deadline = time.monotonic() + CLOSING
        while self._queue.unfinished_tasks and self._failure is None and time.monotonic() < deadline:
            time.sleep(0.01)
        self._closing.set()
        with contextlib.suppress(queue.Full):  # a full queue wakes the thread as well
            self._queue.put_nowait(None)
        self._thread.join(timeout=CLOSING)
        self._writer.close()

    def _wait_once(self, deadline: float) -> None:
        self.check()
        now = time.monotonic()
        if now > deadline:
            raise LogError(
                f"run {self.state.run_id}: the log did not answer for {self._settings.patience:g} s; see that it is "
                f"reachable and has space, then resume the run"
            )
        if not self._said and now > deadline - self._settings.patience + 1:
            self._said = True
            logger.warning("run %s: training waits for the log, up to %g s", self.state.run_id, self._settings.patience)

    def _work(self) -> None:
        while not self._closing.is_set():
            transaction = self._queue.get()
            try:
                if transaction is not None and self._failure is None:
                    self._append(transaction)
            finally:
                self._queue.task_done()
            if transaction is None:
                return

    def _append(self, transaction: Transaction) -> None:
        deadline = time.monotonic() + self._settings.patience
        pause = 0.05
        while True:
            try:
                self._writer.append(transaction.records)
                break
            except (Fenced, SequenceGap, SequenceConflict) as error:
                self._failure = error
                return
            except LogError as error:
                if time.monotonic() + pause > deadline or self._closing.is_set():
                    self._failure = error
                    return
                logger.debug("append failed, trying again: %s", error)
                self._closing.wait(pause * random.uniform(0.5, 1.5))
                pause = min(2 * pause, 2.0)
        self.committed = transaction.state.sequence
        if transaction.then is not None:
            transaction.then()
