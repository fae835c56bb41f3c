"""The log on Kafka: topics, a run's writer, signals, reading. See ``esper.log.port.Log``."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, Producer, TopicCollection

from esper.connections import KafkaSettings, RegistrySettings
from esper.errors import LogError
from esper.events.topics import RUNS
from esper.log.checks import check_signal, start_offset
from esper.log.kafka.address import Address
from esper.log.kafka.clients import ANSWER
from esper.log.kafka.connection import APPEND_TIMEOUT, TRANSACTION_TIMEOUT, KafkaConnection
from esper.log.kafka.frames import head
from esper.log.kafka.reader import Message
from esper.log.kafka.share import GroupShare
from esper.log.kafka.writer import KafkaWriter, open_writer
from esper.log.port import Counted, Entry, Position, Record


class KafkaLog(KafkaConnection):
    """The log at ``address``. No broker is asked before it is needed."""

    def __init__(
        self,
        address: Address,
        kafka: KafkaSettings,
        registry: RegistrySettings,
        *,
        transaction_timeout: float = TRANSACTION_TIMEOUT,
        patience: float = APPEND_TIMEOUT,
    ) -> None:
        super().__init__(address, kafka, registry, transaction_timeout=transaction_timeout, patience=patience)
        self._written: set[str] = set()  # runs whose writer was opened here
        self._closed = False

    @property
    def log_id(self) -> str:
        """The cluster's id, and the prefix of this log."""
        described = self.cluster.result(self.cluster.admin.describe_cluster(), "asking for the cluster's id")
        return self.address.named(str(described.cluster_id)) if self.address.prefix else str(described.cluster_id)

    def topic_id(self, topic: str) -> str:
        """See ``Log.topic_id``: ``log_id`` and the UUID that Kafka gave the topic (KIP-516)."""
        real = self.writable(topic)
        future = self.cluster.admin.describe_topics(TopicCollection([real]), request_timeout=ANSWER)[real]
        described = self.cluster.result(future, f"asking for the id of {topic}")
        return f"{self.log_id}/{described.topic_id}"

    def open_writer(self, run_id: str, *, copied: int | None = None) -> KafkaWriter:
        """See ``Log.open_writer``: brokers fence by the run's transactional id (KIP-98), epochs are in
        ``esper.run-index``."""
        self._open()
        self._written.add(run_id)
        return open_writer(self, run_id, copied)

    def counted(self, run_id: str) -> Counted | None:
        """None: on Kafka nothing is counted apart from the records."""
        return None  # its records tell, which anyone may write

    def signal(self, record: Record) -> Position:
        """See ``Log.signal``: acknowledged by all replicas in sync. A record of ``esper.runs`` is a UsageError."""
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
        """See ``Log.read``. Where a run's writer was opened here, its events are read once no open transaction hides
        any."""
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
        """See ``Log.bounds``, as brokers tell it now."""
        self._open()
        partitions = range(self.partitions(topic))
        firsts, ends = self.reader.firsts(topic, partitions), self.reader.ends(topic, partitions)
        return {each: (firsts[each], ends[each]) for each in partitions if ends[each] > 0}

    def since(self, topic: str, offsets: Mapping[int, int]) -> Iterator[Entry]:
        """See ``Log.since``; a topic that is not there yet has no records."""
        self._open()
        partitions = self.partitions(topic)
        return self._all(topic, self.reader.ends(topic, range(partitions)), offsets) if partitions else iter(())

    def follow(
        self, topic: str, key: str | None = None, after: Position | None = None, *, stop: threading.Event
    ) -> Iterator[Entry]:
        """See ``Log.follow``; a topic that is not there yet gives nothing until ``stop`` is set."""
        start = start_offset(topic, key, after)
        self._open()
        return self._following(topic, key, start, stop)

    def share(self, topics: Sequence[str], group: str) -> GroupShare:
        """See ``Log.share``: ``group``, behind the log's prefix, is a consumer group."""
        self._open()
        return GroupShare(self, topics, group)

    def checkpointed(self, run_id: str) -> Position | None:
        """See ``Log.checkpointed``: what ``esper.run-index`` says."""
        self._open()
        hint = self.index.of(run_id)
        if hint is None or hint.checkpoint is None:
            return None
        return Position(RUNS, self.partition(run_id), hint.checkpoint)

    def close(self) -> None:
        """Close the connections; whatever asks the log after that raises LogError."""
        self._closed = True
        self.reader.close()
        self.registry.close()
        self.cluster.close()

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
            if hint is not None and hint.first is not None and self.is_first(hint.first, partition, key.encode(), end):
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
