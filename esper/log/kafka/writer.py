"""The one writer of a run on Kafka: claims an epoch, appends transactions, and tells a rival from an outage."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from esper.errors import Fenced, LogError, WriterLost
from esper.events.topics import INDEX, RUNS
from esper.log.checks import check_sizes, following
from esper.log.kafka.connection import KafkaConnection
from esper.log.kafka.frames import head
from esper.log.kafka.index import RunIndex, index_schema
from esper.log.kafka.reader import EPOCH, SEQUENCE
from esper.log.kafka.transactions import Message, OutOfStep, ProducerLost, Transactions
from esper.log.port import Position, Record
from esper.system.backoff import Backoff

GRACE = 2.0
"""Seconds in which whoever fenced us must have claimed its epoch."""
FIRST_PAUSE, LONGEST_PAUSE = 0.4, 0.65
"""Seconds between two attempts to see who fenced us."""
CHECKPOINT = "esper.runs.CheckpointCommitted"


class KafkaWriter:
    """See ``esper.log.port.Writer``. Threads that share it take turns."""

    def __init__(
        self,
        log: KafkaConnection,
        transactions: Transactions,
        claim: RunIndex,
        run_id: str,
        sequence: int,
        copied: int | None = None,
    ) -> None:
        self.run_id, self.epoch, self.sequence, self._copied = run_id, claim.epoch, sequence, copied
        self._log, self._transactions, self._index = log, transactions, claim
        self._last = sequence
        self._dead: LogError | None = None
        self._lock = threading.Lock()

    def append(self, records: Sequence[Record]) -> Position | None:
        """See ``Writer.append``. Once the producer is lost, this and every later call raise Fenced or WriterLost."""
        with self._lock:
            if self._dead is not None:
                raise self._dead
            last = following(records, self.run_id, self.epoch, self._last, self._copied)
            check_sizes(records)
            if not records:
                return None
            messages = list(self._messages(records))  # registers schemas, so it comes before the transaction
            try:
                position, index = self._commit(records, messages, time.monotonic() + self._log.patience)
            except ProducerLost as loss:
                self._dead = self._verdict(loss)
                raise self._dead from loss
            except LogError:
                raise
            except BaseException:
                self._dead = self._lost("it was interrupted")
                self._transactions.close()
                raise
            self._last, self._index = last, index
            return position

    def follow(self, sequence: int) -> None:
        """See ``Writer.follow``."""
        self.sequence = self._last = sequence

    def close(self) -> None:
        """Also ends an append that waits for the brokers."""
        self._transactions.closing = True
        with self._lock:
            if self._dead is None:
                self._dead = LogError(f"run {self.run_id}: its writer was closed; open another")
            self._transactions.close()

    def _commit(
        self, records: Sequence[Record], messages: Sequence[Message], deadline: float
    ) -> tuple[Position | None, RunIndex]:
        """Where the run's last event is, and what the index says now."""
        try:
            return self._commit_once(records, messages, deadline)
        except OutOfStep:
            return self._commit_once(records, messages, deadline)

    def _commit_once(
        self, records: Sequence[Record], messages: Sequence[Message], deadline: float
    ) -> tuple[Position | None, RunIndex]:
        self._transactions.begin()
        offsets = self._transactions.write(messages, deadline)
        index = self._index_with(records, offsets)
        if index != self._index:
            self._transactions.write([self._log.index_message(self.run_id, index)], deadline)
        self._transactions.commit(deadline)
        if not offsets:
            return None, index
        return Position(RUNS, self._log.partition(self.run_id), offsets[max(offsets)]), index

    def _messages(self, records: Sequence[Record]) -> Iterator[Message]:
        log, last = self._log, _last_of(records)
        places: dict[tuple[str, str], tuple[str, bytes]] = {}
        for record in records:
            kind = record.topic, record.schema.fingerprint
            if kind not in places:
                real = log.writable(record.topic)
                places[kind] = real, head(log.registry.id_of(real, record.schema))
            topic, frame = places[kind]
            headers: list[tuple[str, str | bytes | None]] = [*record.headers]
            if record.topic == RUNS:
                headers += (EPOCH, str(record.epoch).encode()), (SEQUENCE, str(record.sequence).encode())
            yield topic, record.key.encode(), frame + record.value, headers, record is last or _indexed(record)

    def _index_with(self, records: Sequence[Record], offsets: Mapping[int, int]) -> RunIndex:
        """The run's index record once ``records`` are committed."""
        index = self._index
        for place, offset in offsets.items():
            if records[place].sequence == 1:
                index = replace(index, first=offset)
            if records[place].schema.name == CHECKPOINT:
                index = replace(index, checkpoint=offset)
        return index

    def _verdict(self, loss: ProducerLost) -> LogError:
        """Why the brokers gave this writer up: a later one shows itself in the log; an outage does not."""
        self._transactions.close()
        deadline = time.monotonic() + self._log.patience
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        while True:
            try:
                rival = _rival(self._log, self.run_id, self._index, self._transactions)
                return self._lost(str(loss)) if rival is None else Fenced(self.run_id, rival)
            except LogError as error:  # the brokers are still away: whoever fenced us cannot be seen yet
                if self._transactions.closing or time.monotonic() > deadline:
                    return self._lost(f"{loss}; and {error}")
                time.sleep(backoff.pause())

    def _lost(self, why: str) -> WriterLost:
        return WriterLost(
            f"run {self.run_id}: the brokers gave up its writer of epoch {self.epoch} ({why}), and no other trainer "
            f"took over; whether its last events are in the log is unknown: resume the run"
        )


def _last_of(records: Sequence[Record]) -> Record | None:
    """The last of the run's own events among ``records``."""
    return next((record for record in reversed(records) if record.topic == RUNS), None)


def _indexed(record: Record) -> bool:
    """Whether the index says where this record is."""
    return record.topic == RUNS and (record.sequence == 1 or record.schema.name == CHECKPOINT)


def open_writer(log: KafkaConnection, run_id: str, copied: int | None = None) -> KafkaWriter:
    """Fence the writers before and claim the next epoch.

    The claim comes before the run is read: whoever was fenced looks for it to know why.
    """
    deadline = time.monotonic() + log.patience
    for topic in (RUNS, INDEX):
        log.writable(topic)
    log.registry.id_of(log.address.named(INDEX), index_schema())
    name = log.address.transactional_id(run_id)
    try:
        transactions = Transactions(log.cluster, name, log.transaction_timeout, deadline)
    except ProducerLost as loss:
        raise LogError(f"run {run_id}: its writer could not be opened ({loss}); look at the brokers") from loss
    try:
        return _opened(log, run_id, transactions, copied, deadline)
    except BaseException:
        transactions.close()
        raise


def _opened(
    log: KafkaConnection, run_id: str, transactions: Transactions, copied: int | None, deadline: float
) -> KafkaWriter:
    known = log.index.of(run_id, settled=True) or RunIndex(0, "")
    claim = replace(known, epoch=max(known.epoch, copied or 0) + 1, writer=log.token)
    try:
        _commit_claim(log, transactions, run_id, claim, deadline)
        found = log.reach(run_id, known)
        if found.epoch >= claim.epoch or found.first != claim.first:  # an index that was lost, or is wrong
            claim = replace(claim, epoch=max(found.epoch + 1, claim.epoch), first=found.first)
            _commit_claim(log, transactions, run_id, claim, deadline)
    except ProducerLost as loss:
        rival = _rival(log, run_id, claim, transactions)
        if rival is not None:
            raise Fenced(run_id, rival) from loss
        raise LogError(f"run {run_id}: the brokers gave up its new writer ({loss}); try again") from loss
    return KafkaWriter(log, transactions, claim, run_id, found.sequence, copied)


def _commit_claim(
    log: KafkaConnection, transactions: Transactions, run_id: str, claim: RunIndex, deadline: float
) -> None:
    transactions.begin()
    transactions.write([log.index_message(run_id, claim)], deadline)
    transactions.commit(deadline)


def _rival(log: KafkaConnection, run_id: str, claim: RunIndex, transactions: Transactions) -> int | None:
    """The epoch of whoever fenced the writer with this claim; None if nobody shows up soon."""
    deadline = None
    while not transactions.closing:
        newest = log.newest_epoch(run_id, claim)  # may wait long, for what a rival waits for too
        if newest > claim.epoch:
            return newest
        deadline = deadline or time.monotonic() + GRACE
        if time.monotonic() > deadline:
            return None
        time.sleep(0.1)
    return None
