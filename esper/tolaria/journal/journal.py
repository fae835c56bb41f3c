"""The trainer's side of the log: transactions are built on the fold, queued, and committed by a writer thread.

The fold (``Journal.state``) holds everything submitted, so that a decision sees what came just before it. A
transaction that changes the model is *committed* before it is applied; any other is *submitted*, and training goes
on, at most ``buffer`` transactions ahead.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from esper.errors import Fenced, LogError, LogRefused, RecordTooLarge, SequenceConflict, SequenceGap, WriterLost
from esper.events import AssetContent, RunContent
from esper.events.topics import RUNS
from esper.log.chain import Mark, chained, first_link
from esper.log.port import Record, Writer
from esper.log.records import asset_record, run_record
from esper.settings import LogSettings
from esper.system.backoff import Backoff
from esper.tamiyo.run.fold import after
from esper.tamiyo.run.snapshot import Folded
from esper.tamiyo.run.state import RunState
from esper.tolaria.journal.reopening import NOTE, WRITER, Writers, renumbered

logger = logging.getLogger("esper")
CLOSING = 5.0  # seconds that a closing journal gives its last transactions
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0  # seconds between two attempts to append
FINAL = (Fenced, LogRefused, SequenceGap, SequenceConflict, RecordTooLarge)  # trying again cannot help


class Transaction:
    """Events that will be committed together. ``state`` is the fold including them; ``then`` is called, in the
    writer thread, once they are committed. ``moved`` and ``epoch`` are those of its numbers: see ``Journal.state``."""

    def __init__(self, state: RunState, epoch: int, moved: int = 0) -> None:
        self.state, self.epoch, self.moved = state, epoch, moved
        self.contents: list[RunContent] = []
        self.then: Callable[[], None] | None = None
        self._assets: list[tuple[AssetContent, datetime]] = []
        self._said: list[tuple[datetime, tuple[UUID, ...]]] = []  # when each of the contents was added, and its causes

    def add(self, content: RunContent, causes: Sequence[UUID] = ()) -> None:
        """Append an event of the run."""
        self.state = after(self.state, content, self.epoch)
        self.contents.append(content)
        self._said.append((datetime.now(UTC), tuple(causes)))

    def add_asset(self, content: AssetContent) -> None:
        """Append an event about a blueprint or kernel, in the same transaction."""
        self._assets.append((content, datetime.now(UTC)))

    def records(self) -> list[Record]:
        """All of it as the log takes it: what is about assets, then the run's events."""
        before = self.state.sequence - len(self.contents)
        events = [
            run_record(
                self.state.run_id,
                content,
                epoch=self.epoch,
                sequence=sequence,
                writer=WRITER,
                time=time,
                causes=causes,
            )
            for sequence, (content, (time, causes)) in enumerate(
                zip(self.contents, self._said, strict=True), start=before + 1
            )
        ]
        return [*(asset_record(content, writer=WRITER, time=time) for content, time in self._assets), *events]


class _Sent(NamedTuple):
    """A transaction as it was queued. ``settled`` is where it ends, once it is committed."""

    records: list[Record]
    state: RunState
    moved: int
    then: Callable[[], None] | None
    settled: Future[Mark]


class Journal:
    """Commits a run's transactions in order, from one thread. Its methods belong to the training thread; other threads
    may read ``latest`` and ``committed``.

    Every method raises what made the writer thread stop: Fenced, or LogError after ``patience`` seconds without
    an answer from the log. A writer that the log gives up meanwhile is replaced by another, with the run's numbers
    one up from there; whatever was given to the journal is committed once all the same.
    """

    def __init__(
        self, writers: Writers, writer: Writer, state: RunState, settings: LogSettings, mark: Mark | None = None
    ) -> None:
        self.committed = writer.sequence  # events of the run
        self._writers, self._settings = writers, settings
        self._state = state
        self._newest: Future[Mark] | None = None  # where the last transaction that was submitted ends
        self._counted = self._moved = 0, writer.epoch  # by how much its numbers were moved up; the last event's epoch
        self._queue: queue.Queue[_Sent | None] = queue.Queue(settings.buffer)
        self._failure: BaseException | None = None
        self._answered = time.monotonic()  # when the log last did
        self._trouble = ""  # what it said since
        self._said = False
        self._closing = threading.Event()
        # From here on only the writer thread sets these. The training thread reads _writer (its epoch; to close it)
        # and, in read_back, _begun and _tail.
        self._writer = writer
        self._tail = self._begun = mark or Mark(state.writer_epoch, state.sequence, first_link(state.run_id))
        self._folded = state  # until the tail
        self._head: list[Record] = []  # RunResumed, until it is committed with the next transaction
        self._doubtful: list[Record] | None = None  # what a lost writer was given
        self._thread = threading.Thread(target=self._work, name="esper-journal", daemon=True)
        self._thread.start()

    @property
    def state(self) -> RunState:
        """The run, including what is not committed yet. What a re-opened writer adds moves the numbers of all later
        events up: the state follows when it is next looked at, a transaction when it is appended."""
        now = self._moved
        if now != self._counted:
            sequence = self._state.sequence + now[0] - self._counted[0]
            self._state = replace(self._state, sequence=sequence, writer_epoch=now[1])
            self._counted = now
        return self._state

    @property
    def epoch(self) -> int:
        """The fencing epoch of the run's present writer."""
        return self._writer.epoch

    @property
    def latest(self) -> RunState:
        """The run as the training thread last saw it, for other threads."""
        return self._state

    def folded(self) -> Callable[[], Folded | None]:
        """What gives the present state and the link behind its last event, once that is committed: it waits for that.
        It gives None where that event has moved up by then, or is not of this journal, and raises LogError where it was
        never committed."""
        state, newest = self.state, self._newest

        def settled() -> Folded | None:
            if newest is None:
                return None
            try:
                tail = newest.result(timeout=self._settings.patience)
            except (TimeoutError, CancelledError) as error:
                raise (self._failure or self._silence()) from error  # what ended the writer, if anything has
            if (
                tail.link is None
                or tail.position is None
                or (tail.epoch, tail.sequence) != (state.writer_epoch, state.sequence)
            ):
                return None
            return Folded(state, tail.link.hex(), str(tail.position))

        return settled

    def transaction(self) -> Transaction:
        """A new transaction on the present state."""
        return Transaction(self.state, self._writer.epoch, self._counted[0])

    def submit(self, transaction: Transaction) -> None:
        """Queue it; waits only when ``buffer`` transactions are queued."""
        self.check()
        began = time.monotonic()
        sent = _Sent(transaction.records(), transaction.state, transaction.moved, transaction.then, Future())
        while True:
            try:
                self._queue.put(sent, timeout=0.2)
                break
            except queue.Full:
                self._wait_once(began)
        self._state, self._counted = transaction.state, (transaction.moved, transaction.epoch)
        self._newest = sent.settled

    def commit(self, transaction: Transaction) -> None:
        """Queue it and wait until it, and everything before it, is committed."""
        self.submit(transaction)
        self.wait()

    def wait(self) -> None:
        """Wait until everything submitted is committed."""
        began = time.monotonic()
        with self._queue.all_tasks_done:
            while self._queue.unfinished_tasks and self._failure is None:
                self._queue.all_tasks_done.wait(0.2)
                if self._queue.unfinished_tasks:
                    self._wait_once(began)
        self.check()

    def read_back(self) -> None:
        """Read what has been on the log since this journal began, all of which must be its own, as every reader will.

        Raises SequenceConflict, naming where, if another program has written to the run; LogError if it cannot be read.
        """
        self._writers.read_back(self._begun, self._tail)

    def check(self) -> None:
        """Raise what stopped the writer thread, if anything did."""
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Stop the thread, once what is queued is committed or a few seconds have passed; once is enough."""
        if self._closing.is_set():
            return
        deadline = time.monotonic() + CLOSING
        while self._queue.unfinished_tasks and self._failure is None and time.monotonic() < deadline:
            time.sleep(0.01)
        self._closing.set()
        with contextlib.suppress(queue.Full):  # a full queue wakes the thread as well
            self._queue.put_nowait(None)
        self._writer.close()  # ends an append that still waits
        self._thread.join(timeout=CLOSING)
        self._writer.close()  # another, if it was just re-opened

    def _wait_once(self, began: float) -> None:
        self.check()
        waited = time.monotonic() - max(began, self._answered)
        if waited > self._settings.patience:
            self._failure = self._silence()
            raise self._failure
        if not self._said and waited > 1:
            self._said = True
            logger.warning(
                "run %s: training waits for the log %s, up to %g s%s",
                self._writers.run_id,
                self._writers.url,
                self._settings.patience,
                self._cause(),
            )

    def _silence(self) -> LogError:
        return LogError(
            f"run {self._writers.run_id}: the log {self._writers.url} did not answer for "
            f"{self._settings.patience:g} s; see that it is reachable and has space, then resume the run{self._cause()}"
        )

    def _cause(self) -> str:
        return f" ({self._trouble})" if self._trouble else ""

    # The writer thread

    def _work(self) -> None:
        try:
            while not self._closing.is_set():
                sent = self._queue.get()
                try:
                    if sent is not None and self._failure is None:
                        self._append(sent)
                finally:
                    if sent is not None:
                        sent.settled.cancel()  # unless it is settled
                    self._queue.task_done()
                if sent is None:
                    return
        except BaseException as error:
            self._failure = error
            raise

    def _append(self, sent: _Sent) -> None:
        """Commit it, with as many attempts and writers as that takes while patience lasts."""
        deadline = time.monotonic() + self._settings.patience
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        while True:
            try:
                self._attempt(sent)
                break
            except FINAL as error:
                self._failure = error
                return
            except LogError as error:
                self._trouble = str(error)
                pause = backoff.pause()
                if time.monotonic() + pause > deadline or self._closing.is_set():
                    self._failure = self._silence()
                    return
                logger.debug("append failed, trying again: %s", error)
                self._closing.wait(pause)
        if sent.then is not None:
            sent.then()

    def _attempt(self, sent: _Sent) -> None:
        if self._doubtful is not None and self._reopen(self._doubtful, sent):
            return
        records = renumbered([*self._head, *sent.records], self._writer.epoch, self._tail.sequence)
        records, link = chained(records, self._tail.link or first_link(self._writers.run_id))
        try:
            position = self._writer.append(records)
        except WriterLost:
            self._doubtful = records
            raise
        last = next(record for record in reversed(records) if record.topic == RUNS)
        since = self._tail.chained or self._tail.sequence + 1
        self._settle(sent, Mark(self._writer.epoch, last.sequence or 0, link, since, position))

    def _reopen(self, doubtful: list[Record], sent: _Sent) -> bool:
        """Go on with another writer; returns whether ``doubtful``, the lost one's last records, were committed."""
        reopened = self._writers.reopen(doubtful, self._tail)
        if self._closing.is_set():  # too late: another may have the run by now
            reopened.writer.close()
            raise LogError("the journal was closed")
        self._writer.close()
        self._writer, self._tail, self._doubtful = reopened.writer, reopened.tail, None
        if reopened.committed:
            self._settle(sent, reopened.tail)
        if self._tail.sequence:
            self._head = [self._writers.resumed(self._folded, self._writer.epoch)]
        logger.warning("run %s: %s; it goes on with epoch %d", self._writers.run_id, NOTE, self._writer.epoch)
        return reopened.committed

    def _settle(self, sent: _Sent, tail: Mark) -> None:
        """It is committed, and ``tail`` is its last event."""
        self._tail, self._folded, self._head = tail, sent.state, []
        self._moved = sent.moved + tail.sequence - sent.state.sequence, tail.epoch
        self.committed = tail.sequence
        sent.settled.set_result(tail)
        self._answered = time.monotonic()
        if self._trouble:
            self._trouble, self._said = "", False
