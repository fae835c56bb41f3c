"""What everything that speaks to a log on Kafka shares: the cluster, the registry, topics by their real names, and how
far a run has come there."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicCollection

from esper.connections import KafkaSettings, RegistrySettings
from esper.errors import LogError
from esper.events.topics import INDEX, PARTITIONS, RUNS, TOPICS
from esper.log.kafka.address import Address
from esper.log.kafka.clients import ANSWER, ClusterClients, keep
from esper.log.kafka.frames import head
from esper.log.kafka.index import Index, RunIndex, index_bytes, index_schema
from esper.log.kafka.reader import EPOCH, SEQUENCE, Message, Reader
from esper.log.kafka.registry import Registry
from esper.log.kafka.transactions import Message as Outgoing
from esper.log.ordering import LEAP
from esper.log.partitions import partition_of

APPEND_TIMEOUT = 120.0
"""Seconds that one append waits for brokers that do not answer."""
TRANSACTION_TIMEOUT = 30.0
"""Seconds after which a broker aborts a transaction that nobody ends."""


@dataclass(frozen=True, slots=True)
class Reached:
    """How far a run has come: the newest epoch, the last sequence number, the offset of its event 1."""

    epoch: int = 0
    sequence: int = 0
    first: int | None = None


class KafkaConnection:
    """A connection to the log at ``address``. No broker is asked before it is needed."""

    def __init__(
        self,
        address: Address,
        kafka: KafkaSettings,
        registry: RegistrySettings,
        *,
        transaction_timeout: float = TRANSACTION_TIMEOUT,
        patience: float = APPEND_TIMEOUT,
    ) -> None:
        self.url, self.address = address.url, address
        self.transaction_timeout, self.patience = transaction_timeout, patience
        self.token = uuid.uuid4().hex
        self.cluster = ClusterClients(address, kafka)
        self.registry = Registry(registry)
        self.reader = Reader(self.cluster, self.registry)
        self.index = Index(self.reader, self.registry)
        self._partitions: dict[str, int] = {}
        keep(self)

    def partition(self, key: str) -> int:
        """The partition in which ``key`` lies, in whatever topic of the log."""
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
            if topic not in TOPICS or TOPICS[topic].late:
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
        """A record for ``esper.run-index`` that says ``index`` of the run. Raises LogError if the topic is missing or
        the registry does not answer."""
        real = self.writable(INDEX)
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
        first = hint.first if self.is_first(hint.first, partition, key, end) else None
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

    def is_first(self, offset: int | None, partition: int, key: bytes, end: int) -> bool:
        """Whether event 1 of the run ``key`` lies at ``offset`` of a partition of ``esper.runs``, before ``end``."""
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


def _numbers(message: Message) -> tuple[int, int]:
    """Epoch and sequence that the adapter's headers say, 0 where they say nothing."""
    headers = dict(message.headers() or ())
    try:
        return int(headers.get(EPOCH) or 0), int(headers.get(SEQUENCE) or 0)
    except ValueError:
        return 0, 0
