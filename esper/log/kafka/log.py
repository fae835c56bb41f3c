"""The log on Kafka: topics, a run's writer, signals, reading. See ``esper.log.port.Log``."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, Producer, TopicCollection

from esper.connections import KafkaSettings, RegistrySettings
from esper.errors import LogError
from esper.log.checks import check_signal, start_offset
from esper.log.kafka.address import Address
from esper.log.kafka.admin.topics import LATER, TOPICS
from esper.log.kafka.clients import ANSWER, Cluster, keep
from esper.log.kafka.frames import head
from esper.log.kafka.index import RUN_INDEX, Index, RunIndex, index_bytes, index_schema
from esper.log.kafka.reader import EPOCH, SEQUENCE, Message, Reader
from esper.log.kafka.registry import Registry
from esper.log.kafka.share import GroupShare
from esper.log.kafka.transactions import Message as Outgoing
from esper.log.kafka.writer import PATIENCE, KafkaWriter, open_writer
from esper.log.ordering import LEAP
from esper.log.partitions import partition_of
from esper.log.port import PARTITIONS, RUNS, Counted, Entry, Position, Record

TRANSACTION_TIMEOUT = 30.0
"""Seconds after which a broker aborts a transaction that nobody ends."""


@dataclass(frozen=True, slots=True)
class Reached:
    """How far a run has come: the newest epoch, the last sequence number, the offset of its event 1."""

    epoch: int = 0
    sequence: int = 0
    first: int | None = None


class KafkaLog:
    """The log at ``address``. No broker is asked before it is needed."""

    def __init__(
        self,
        address: Address,
        kafka: KafkaSettings,
        registry: RegistrySettings,
        *,
        transaction_timeout: float = TRANSACTION_TIMEOUT,
        patience: float = PATIENCE,
    ) -> None:
        self.url, self.address = address.url, address
        self.transaction_timeout, self.patience = transaction_timeout, patience
        self.token = uuid.uuid4().hex
        self.cluster = Cluster(address, kafka)
        self.registry = Registry(registry)
        self.reader = Reader(self.cluster, self.registry)
        self.index = Index(self.reader, self.registry)
        self._partitions: dict[str, int] = {}
        self._written: set[str] = set()  # runs whose writer was opened here
        self._lock = threading.Lock()
        self._closed = False
        keep(self)

    @property
    def log_id(self) -> str:
        """The cluster's id, and the prefix of this log."""
        described = self.cluster.result(self.cluster.admin.describe_cluster(), "asking for the cluster's id")
        return self.address.named(str(described.cluster_id)) if self.address.prefix else str(described.cluster_id)

    def topic_id(self, topic: str) -> str:
        real = self.writable(topic)
        future = self.cluster.admin.describe_topics(TopicCollection([real]), request_timeout=ANSWER)[real]
        described = self.cluster.result(future, f"asking for the id of {topic}")
        return f"{self.log_id}/{described.topic_id}"

    def open_writer(self, run_id: str, *, copied: int | None = None) -> KafkaWriter:
        self._open()
        self._written.add(run_id)
        return open_writer(self, run_id, copied)

    def counted(self, run_id: str) -> Counted | None:
        return None  # its records tell, which anyone may write

    def signal(self, record: Record) -> Position:
        check_signal(record)
        self._open()
        real = self.writable(record.topic)
        value = head(self.registry.id_of(real, record.schema)) + record.value
        outcome: list[tuple[KafkaError | None, int, int]] = []

        def delivered(error: KafkaError | None, message: Message) -> None:
            outcome.append((error, message.partition() or 0, message.offset() or 0))

        headers: list[tuple[str, str | bytes | None]] = list(record.headers)
        try:
            self._producer.produce(real, value, record.key.encode(), headers=headers, on_delivery=delivered)
            while not outcome:  # the client gives up by itself
                self._producer.poll(0.05)
        except KafkaException as error:
            self.__dict__.pop("_producer", None)  # a fatal one; the next signal gets another client
            raise self.cluster.error(f"sending to {record.topic}", error) from error
        except BufferError as error:
            raise LogError(f"{self.cluster.address.servers}: too much waits to be sent; look at the brokers") from error
        failure, partition, offset = outcome[0]
        if failure is not None:
            raise self.cluster.error(f"sending to {record.topic}", KafkaException(failure))
        return Position(record.topic, partition, offset)

    def read(self, topic: str, key: str | None = None, after: Position | None = None) -> Iterator[Entry]:
        start = start_offset(topic, key, after)
        self._open()
        partitions = self.partitions(topic)
        if not partitions:
            return iter(())
        if key is None:
            return self._all(topic, self.reader.ends(topic, range(partitions)), {})
        partition = self.partition(key)
        if topic == RUNS and key in self._written:  # its writer knows how far it goes: nothing may hide the last events
            return self._keyed(topic, key, start, partition, self.reader.settled_end(topic, partition))
        return self._keyed(topic, key, start, partition, self.reader.ends(topic, [partition])[partition])

    def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        self._open()
        partitions = range(self.partitions(topic))
        firsts, ends = self.reader.firsts(topic, partitions), self.reader.ends(topic, partitions)
        return {each: (firsts[each], ends[each]) for each in partitions if ends[each] > 0}

    def since(self, topic: str, offsets: Mapping[int, int]) -> Iterator[Entry]:
        self._open()
        partitions = self.partitions(topic)
        return self._all(topic, self.reader.ends(topic, range(partitions)), offsets) if partitions else iter(())

    def follow(
        self, topic: str, key: str | None = None, after: Position | None = None, *, stop: threading.Event
    ) -> Iterator[Entry]:
        start = start_offset(topic, key, after)
        self._open()
        return self._following(topic, key, start, stop)

    def share(self, topics: Sequence[str], group: str) -> GroupShare:
        self._open()
        return GroupShare(self, topics, group)

    def checkpointed(self, run_id: str) -> Position | None:
        self._open()
        hint = self.index.of(run_id)
        if hint is None or hint.checkpoint is None:
            return None
        return Position(RUNS, self.partition(run_id), hint.checkpoint)

    def close(self) -> None:
        self._closed = True
        self.reader.close()
        self.registry.close()
        self.cluster.close()

    # For the writer.

    def partition(self, key: str) -> int:
        return partition_of(key)

    def partitions(self, topic: str) -> int:
        """How many the topic has, 0 if it is not there; raises LogError if it is ours and not as it has to be, or not
        there though every log has it."""
        known = self._partitions.get(topic)
        if known is not None:
            return known
        real = self.address.named(topic)
        future = self.cluster.admin.describe_topics(TopicCollection([real]), request_timeout=ANSWER)[real]
        try:
            count = len(future.result(timeout=ANSWER + 1).partitions)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise self.cluster.error(f"asking for {topic}", error) from error
            if topic not in TOPICS or topic in LATER:
                return 0
            raise self._missing(topic) from error
        if topic in TOPICS and count != PARTITIONS:
            raise LogError(
                f"topic {real} has {count} partitions, but needs {PARTITIONS}, and no other number would do: keys "
                f"would move; make it anew, or name another log prefix"
            )
        self._partitions[topic] = count
        return count

    def writable(self, topic: str) -> str:
        """The topic's real name, once it has been seen to be as it has to be."""
        if not self.partitions(topic) and topic in TOPICS:
            raise self._missing(topic)
        return self.address.named(topic)

    def _missing(self, topic: str) -> LogError:
        return LogError(
            f"topic {self.address.named(topic)} is missing on {self.address.servers}; "
            f"run `esper topics init --log {self.url}`"
        )

    def index_message(self, run_id: str, index: RunIndex) -> Outgoing:
        real = self.writable(RUN_INDEX)
        framed = head(self.registry.id_of(real, index_schema())) + index_bytes(index)
        return real, run_id.encode(), framed, [], False

    def newest_epoch(self, run_id: str, hint: RunIndex) -> int:
        """The newest epoch that the log knows of, in the index or in the run."""
        claimed = self.index.of(run_id, settled=True)
        return max(claimed.epoch if claimed else 0, self.reach(run_id, hint, settled=False).epoch)

    def reach(self, run_id: str, hint: RunIndex, *, settled: bool = True) -> Reached:
        """How far the run has come, with ``settled`` once every transaction that is open now is ended."""
        partition, key = self.partition(run_id), run_id.encode()
        end = self.reader.settled_end(RUNS, partition) if settled else self.reader.ends(RUNS, [partition])[partition]
        first = hint.first if self._is_first(hint.first, partition, key, end) else None
        start = OFFSET_BEGINNING if first is None else first
        if first is not None and self._is_of_run(hint.checkpoint, partition, key, end):
            start = hint.checkpoint or 0
        epoch, sequence = hint.epoch, 0
        for message in self.reader.messages(RUNS, partition, start, end):
            if message.key() == key:
                its_epoch, place = _numbers(message)
                if first is None and place == 1:
                    first = message.offset()
                if its_epoch <= epoch + LEAP:  # else it is no writer's of the run: no other could come after it
                    epoch, sequence = max(epoch, its_epoch), max(sequence, place)
        return Reached(epoch, sequence, first)

    def _is_first(self, offset: int | None, partition: int, key: bytes, end: int) -> bool:
        found = self._at(offset, partition, end)
        return found is not None and found.key() == key and _numbers(found)[1] == 1

    def _is_of_run(self, offset: int | None, partition: int, key: bytes, end: int) -> bool:
        found = self._at(offset, partition, end)
        return found is not None and found.key() == key and _numbers(found)[1] > 0

    def _at(self, offset: int | None, partition: int, end: int) -> Message | None:
        """The message at this offset of ``esper.runs``."""
        if offset is None or not 0 <= offset < end:
            return None
        found = next(self.reader.messages(RUNS, partition, offset, end), None)
        return found if found is not None and found.offset() == offset else None

    def _all(self, topic: str, ends: dict[int, int], after: Mapping[int, int]) -> Iterator[Entry]:
        for partition, end in sorted(ends.items()):
            start = after[partition] + 1 if partition in after else OFFSET_BEGINNING
            for message in self.reader.messages(topic, partition, start, end):
                yield self.reader.entry(topic, message)

    def _keyed(self, topic: str, key: str, start: int, partition: int, end: int) -> Iterator[Entry]:
        wanted = key.encode()
        offset = start + 1 if start >= 0 else self._begin(topic, key, end)
        for message in self.reader.messages(topic, partition, offset, end):
            if message.key() == wanted:
                yield self.reader.entry(topic, message)

    def _begin(self, topic: str, key: str, end: int) -> int:
        """Where the key's records begin, as far as the index is right; else at the partition's beginning."""
        if topic == RUNS:
            hint = self.index.of(key)
            partition = self.partition(key)
            if hint is not None and hint.first is not None and self._is_first(hint.first, partition, key.encode(), end):
                return hint.first
        return OFFSET_BEGINNING

    def _following(self, topic: str, key: str | None, start: int, stop: threading.Event) -> Iterator[Entry]:
        partitions = self.partitions(topic)
        if not partitions:
            stop.wait()
            return
        if key is None:
            starts = dict.fromkeys(range(partitions), OFFSET_BEGINNING)
        else:
            partition = self.partition(key)
            end = self.reader.ends(topic, [partition])[partition] if topic == RUNS else 0
            starts = {partition: start + 1 if start >= 0 else self._begin(topic, key, end)}
        wanted = None if key is None else key.encode()
        for message in self.reader.coming(topic, starts, stop):
            if wanted is None or message.key() == wanted:
                yield self.reader.entry(topic, message)

    @cached_property
    def _producer(self) -> Producer:
        return self.cluster.producer(linger_ms=0, delivery_timeout_ms=int(ANSWER * 1000))

    def _open(self) -> None:
        if self._closed:
            raise LogError(f"{self.url}: the log was closed; open it again")


def _numbers(message: Message) -> tuple[int, int]:
    """Epoch and sequence that the adapter's headers say, 0 where they say nothing."""
    headers = dict(message.headers() or ())
    try:
        return int(headers.get(EPOCH) or 0), int(headers.get(SEQUENCE) or 0)
    except ValueError:
        return 0, 0
