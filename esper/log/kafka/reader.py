"""Reading partitions: consumers that are used again, ends, and messages as entries of the port."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec

from esper.errors import DecodeError, LogError
from esper.events.encoding.codec import maker
from esper.events.encoding.schemas import UNKNOWN, Schema
from esper.events.topics import RUNS
from esper.log.headers import Headers
from esper.log.kafka.clients import ANSWER, ClusterClients, keep
from esper.log.kafka.frames import LENGTH, schema_id
from esper.log.kafka.registry import Registry
from esper.log.port import Entry, Position, Record, utc

Message: TypeAlias = Any
"""The client's message; its stubs make every part of it optional."""

EPOCH, SEQUENCE = "esper_epoch", "esper_sequence"
"""The adapter's own headers, the last two of a record on ``esper.runs``."""
BATCH = 1000
ASKING = 2.0
"""Seconds to wait for one broker, which may have been killed, before the next is asked who leads now."""
SILENCE = 30.0
"""Seconds without a message after which a read gives up."""
SETTLING = 35.0
"""Seconds to wait for other writers' open transactions: what a broker gives one, and a little more."""
LAG = 1.0
"""Seconds that a read waits for transactions that are just being committed."""
SPARE = 4

logger = logging.getLogger("esper")
_position, _record, _entry = maker(Position), maker(Record), maker(Entry)
_PASSING = frozenset(
    {
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError._TRANSPORT,
        KafkaError._TIMED_OUT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._NOENT,  # "no leaders found": told while leaders change
        KafkaError._WAIT_COORD,
        KafkaError._MAX_POLL_EXCEEDED,
    }
)


class Reader:
    """Reads what is committed. Topics are named as the port names them."""

    def __init__(self, cluster: ClusterClients, registry: Registry) -> None:
        self._cluster, self._registry = cluster, registry
        self._heads: dict[bytes, Schema] = {}
        self._idle: list[_Lent] = []
        self._lock = threading.Lock()
        self._closed = False

    def ends(self, topic: str, partitions: Sequence[int], *, patience: float = LAG) -> dict[int, int]:
        """For each partition the offset behind the last record that every reader may see now.

        A commit is acknowledged a moment before its records can be seen, so open transactions get ``patience``
        seconds to end.
        """
        last = self.last(topic, partitions)
        deadline = time.monotonic() + patience
        while True:
            reached = self._ends(topic, partitions, IsolationLevel.READ_COMMITTED)
            if all(reached[each] >= last[each] for each in partitions) or time.monotonic() > deadline:
                return reached
            time.sleep(0.005)

    def settled_end(self, topic: str, partition: int) -> int:
        """The offset behind the last record, once no transaction that is open now hides anything before it."""
        end = self.last(topic, [partition])[partition]
        reached = self.ends(topic, [partition])[partition]
        if reached < end:
            where = f"{topic}/{partition}:{reached}"
            logger.warning("%s: waiting up to %.0f s for another writer's open transaction", where, SETTLING)
            reached = self.ends(topic, [partition], patience=SETTLING)[partition]
        if reached < end:
            raise LogError(
                f"{where}: a transaction has been open for {SETTLING:.0f} s and hides what comes after it; `esper log "
                f"check` tells whose it is and how to end it"
            )
        return end

    def last(self, topic: str, partitions: Sequence[int]) -> dict[int, int]:
        """For each partition the offset behind its last record, committed or not."""
        return self._ends(topic, partitions, IsolationLevel.READ_UNCOMMITTED)

    def firsts(self, topic: str, partitions: Sequence[int]) -> dict[int, int]:
        """For each partition the offset of the first record that is kept."""
        earliest = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
        return self._ends(topic, partitions, IsolationLevel.READ_UNCOMMITTED, earliest)

    def uncommitted(self, topic: str, partition: int, offset: int) -> Message | None:
        """The first record at or behind ``offset``, committed or not; None if none comes."""
        real = self._cluster.address.named(topic)
        consumer = self._cluster.consumer(isolation_level="read_uncommitted")
        try:
            consumer.assign([TopicPartition(real, partition, offset)])
            found = consumer.poll(ANSWER)
            return None if found is None or found.error() is not None else found
        finally:
            consumer.close()

    def _ends(
        self, topic: str, partitions: Sequence[int], isolation: IsolationLevel, which: OffsetSpec | None = None
    ) -> dict[int, int]:
        real = self._cluster.address.named(topic)
        spec = which or OffsetSpec.latest()  # type: ignore[no-untyped-call]
        wanted = {TopicPartition(real, partition): spec for partition in partitions}
        deadline = time.monotonic() + ANSWER
        while True:
            futures = self._cluster.admin.list_offsets(wanted, isolation_level=isolation, request_timeout=ASKING)
            try:
                found = {asked.partition: future.result(timeout=ANSWER).offset for asked, future in futures.items()}
                if min(found.values(), default=0) >= 0:
                    return found
                trouble = KafkaException(KafkaError(KafkaError._TIMED_OUT))  # told as an offset, not as an error
            except KafkaException as error:
                trouble = error
            if trouble.args[0].code() not in _PASSING or time.monotonic() > deadline:
                raise self._cluster.error(f"asking where {topic} begins or ends", trouble) from trouble
            self._refresh(real)

    def messages(self, topic: str, partition: int, start: int, end: int) -> Iterator[Message]:
        """Committed messages from offset ``start`` (OFFSET_BEGINNING: from the first there is) to before ``end``."""
        for batch in self.batches(topic, partition, start, end):
            yield from batch

    def batches(self, topic: str, partition: int, start: int, end: int) -> Iterator[list[Message]]:
        """The same, as they come."""
        if max(start, 0) >= end:
            return
        real = self._cluster.address.named(topic)
        with self._leased(real) as consumer:
            consumer.assign([TopicPartition(real, partition, start)])
            heard = time.monotonic()
            while True:
                batch = _batch(consumer, 0.5)
                if batch:
                    heard = time.monotonic()
                elif time.monotonic() - heard > SILENCE:
                    raise LogError(
                        f"{self._cluster.address.servers}: {topic}/{partition}: nothing came for {SILENCE:.0f} s; look "
                        f"at the brokers"
                    )
                good = [message for message in batch if message.error() is None]
                at_end = len(good) < len(batch) and self._at_end(topic, batch, end)
                if good and good[-1].offset() >= end - 1:
                    yield [message for message in good if message.offset() < end]
                    return
                if good:
                    yield good
                if at_end:
                    return

    def _at_end(self, topic: str, batch: list[Message], end: int) -> bool:
        """Whether the client came to the end that was asked for: a broker that has just begun to lead may tell an
        earlier one for a moment. Raises LogError for what waiting does not mend."""
        reached = False
        for message in batch:
            if (error := message.error()) is None:
                continue
            if error.code() == KafkaError._PARTITION_EOF:
                reached |= message.offset() >= end
            else:
                self.check(topic, error)
        return reached

    def coming(self, topic: str, starts: dict[int, int], stop: threading.Event) -> Iterator[Message]:
        """Committed messages from these offsets on, and what comes after, until ``stop`` is set."""
        real = self._cluster.address.named(topic)
        lent = _Lent(self._cluster.consumer(fetch_wait_max_ms=500))
        try:
            lent.consumer.assign([TopicPartition(real, partition, start) for partition, start in starts.items()])
            while not stop.is_set():
                for message in _batch(lent.consumer, 0.1):
                    if stop.is_set():
                        return
                    if (error := message.error()) is not None:
                        self.check(topic, error)
                    else:
                        yield message
        except KafkaException as failure:
            raise self._cluster.error(f"following {topic}", failure) from failure
        finally:
            lent.consumer.close()

    def entry(self, topic: str, message: Message) -> Entry:
        """``message`` as the port has it."""
        value, key = message.value(), message.key()
        schema = self._heads.get(value[:LENGTH]) if value else None
        error, body, text = None, b"", ""
        try:
            schema = schema or self._schema(value)
            body, text = value[LENGTH:], key.decode()
        except (DecodeError, UnicodeDecodeError, AttributeError) as failure:
            error = str(failure) if isinstance(failure, DecodeError) else "its key is no text"
            schema, body = UNKNOWN, value or b""
            text = (key or b"").decode(errors="backslashreplace")
        headers, epoch, sequence = _headers(topic, message.headers())
        position = _position(topic, message.partition(), message.offset())
        record = _record(topic, text, schema, body, headers, epoch, sequence)
        entry: Entry = _entry(position, utc(message.timestamp()[1]), record, error)
        return entry

    def check(self, topic: str, error: KafkaError) -> None:
        """Raise LogError for an error that waiting does not mend."""
        if error.fatal() or (error.code() not in _PASSING and not error.retriable()):
            raise self._cluster.error(f"reading {topic}", KafkaException(error))

    def close(self) -> None:
        """Close the consumers that are idle; those in use are closed when they are given back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for lent in idle:
            lent.consumer.close()

    def _schema(self, value: bytes | None) -> Schema:
        """The schema that the value's frame names; raises DecodeError."""
        number = schema_id(value)
        if value is None or number is None:
            raise DecodeError("its value has no schema id in front (a zero byte and four more)")
        schema = self._heads[value[:LENGTH]] = self._registry.schema(number)
        return schema

    def _refresh(self, topic: str) -> None:
        """Have the client learn who leads the topic of this real name now; it would not ask by itself."""
        time.sleep(0.1)
        with contextlib.suppress(KafkaException):
            self._cluster.admin.list_topics(topic, timeout=1)

    @contextmanager
    def _leased(self, topic: str) -> Iterator[Consumer]:
        """A consumer of our own for a while, which knows the topic of this real name; making one takes longer than
        reading a little."""
        with self._lock:
            lent = self._idle.pop() if self._idle else None
        if lent is None:
            # A short wait at the end, where a broker would otherwise hold the answer back in case more comes.
            lent = _Lent(self._cluster.consumer(enable_partition_eof=True, fetch_wait_max_ms=2))
        try:
            if topic not in lent.knows:  # it would otherwise ask within a second
                lent.consumer.list_topics(topic, timeout=ANSWER)
                lent.knows.add(topic)
            yield lent.consumer
        except KafkaException as error:
            raise self._cluster.error("reading", error) from error
        finally:
            lent.consumer.unassign()
            with self._lock:
                spare = len(self._idle) < SPARE and not self._closed
                if spare:
                    self._idle.append(lent)
            if not spare:
                lent.consumer.close()


class _Lent:
    """A consumer, and the real names of the topics that it knows."""

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer
        self.knows: set[str] = set()
        keep(self)


def _batch(consumer: Consumer, timeout: float) -> list[Message]:
    """What has come, waiting for the first message only."""
    first = consumer.poll(timeout)
    return [] if first is None else [first, *consumer.consume(BATCH, 0)]


def _headers(topic: str, given: list[tuple[str, bytes]] | None) -> tuple[Headers, int | None, int | None]:
    """The record's own headers, and the epoch and sequence that the adapter's say."""
    if given is None:
        return (), None, None
    if topic == RUNS and len(given) > 1 and given[-2][0] == EPOCH and given[-1][0] == SEQUENCE:
        try:
            return tuple(given[:-2]), int(given[-2][1]), int(given[-1][1])
        except (ValueError, TypeError):
            pass
    return tuple(given), None, None
