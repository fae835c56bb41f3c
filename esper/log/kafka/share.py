"""Sharing a log on Kafka: members of a group have the partitions that its coordinator, a broker, gives them.

The group says who has a partition and nothing else. Its offsets are for operators to look at; that they can be
committed is for us the coordinator's word that this member is still one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Self

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from esper.log.kafka.clients import ANSWER, keep
from esper.log.kafka.connection import KafkaConnection
from esper.log.port import ShareChange

SESSION = 15.0
"""Seconds without a sign of life after which a member counts as dead."""
HUNG = 300.0
"""Seconds without a poll after which a member leaves by itself."""
RENEWAL, LEASE = 1.0, 5.0
"""Seconds for which the coordinator's word is not asked for again, and for which it is good: it gives nobody's
partitions away before SESSION is over, so what takes less than the difference ends in time."""
_OPTIONS = {
    "partition.assignment.strategy": "cooperative-sticky",  # what stays with a member need not be begun anew
    "session.timeout.ms": round(SESSION * 1000),
    "heartbeat.interval.ms": 1000,  # with which a member learns that another has come
    "max.poll.interval.ms": round(HUNG * 1000),
    "socket.timeout.ms": 10_000,  # of a commit, too: a broker that hangs must not hold it for longer
    "auto.offset.reset": "latest",
}
_PASSING = frozenset(
    {
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.NOT_COORDINATOR,
    }
)
"""What a member is told whose group is sharing anew, or is looking for its coordinator; a former one is unknown."""
LOOK = 0.1
"""Seconds between two looks at what has changed."""
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_Place = tuple[str, int]


class GroupShare:
    """See ``esper.log.port.Share``. No broker is asked before the first ``poll``.

    Losses are told by the client alone, which joins again only after that. What it has not noticed yet, because the
    process has just been waked, ``sure`` learns from the coordinator.
    """

    def __init__(self, log: KafkaConnection, topics: Sequence[str], group: str) -> None:
        self._log, self._group = log, log.address.named(group)
        self._topics = {log.address.named(topic): topic for topic in topics}
        self._consumer: Consumer | None = None
        self._member = ""
        self._held: dict[_Place, int | None] = {}  # by real topic and partition, the offset to show
        self._taken: set[_Place] = set()  # not told yet, as those lost
        self._lost: set[_Place] = set()
        self._asked = -LEASE
        self._lock = threading.RLock()
        keep(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            consumer, self._consumer = self._consumer, None
            if consumer is not None:
                consumer.close()

    def poll(self, wait: float = 0.0, done: Mapping[str, Mapping[int, int]] | None = None) -> ShareChange:
        """See ``Share.poll``. Partitions that are new are told only once ``sure``; ``done`` is shown as the group's
        offsets."""
        with self._lock:
            for real, partition in self._held:
                offset = (done or {}).get(self._topics[real], {}).get(partition)
                if offset is not None:
                    self._held[real, partition] = offset + 1
            self._serve(wait)
            lost, self._lost = self._lost, set()
            if not self._taken or not self.sure():
                return ShareChange({}, self._by_topic(lost))
            taken, self._taken = self._taken, set()
            return ShareChange(self._by_topic(taken), self._by_topic(lost))

    def sure(self) -> bool:
        """See ``Share.sure``: asked by a commit of offsets, which the coordinator takes from members of the group
        alone."""
        with self._lock:
            now = time.clock_gettime(_CLOCK)
            if not self._held or self._consumer is None:
                return False
            if now - self._asked > RENEWAL:
                self._ask(self._consumer, now)
            return time.clock_gettime(_CLOCK) - self._asked < LEASE

    def _serve(self, wait: float) -> None:
        """Have the client tell what has changed, for as long as nothing has."""
        deadline = time.monotonic() + wait
        try:
            while True:
                message = self._joined().poll(max(0.0, min(LOOK, deadline - time.monotonic())))
                if message is not None and (failure := message.error()) is not None:
                    self._log.reader.check(f"as group {self._group}", failure)
                if self._taken or self._lost or time.monotonic() >= deadline:
                    return
        except KafkaException as error:
            raise self._log.cluster.error(f"reading as group {self._group}", error) from error

    def _ask(self, consumer: Consumer, now: float) -> None:
        """Have the coordinator say whether this is a member still; without an answer the last one is good for a while.

        A former member's client commits as nobody, which an empty group allows; but then it has lost its id before.
        """
        try:
            answer = consumer.commit(offsets=self._shown(consumer), asynchronous=False)
            failure = next((each.error for each in answer or () if each.error is not None), None)
        except KafkaException as error:
            failure = error.args[0]
        if failure is None and consumer.memberid() == self._member:
            self._asked = now
        elif failure is None or failure.code() == KafkaError.UNKNOWN_MEMBER_ID:
            self._asked = -LEASE
        elif failure.code() not in _PASSING:
            self._log.reader.check(f"as group {self._group}", failure)

    def _shown(self, consumer: Consumer) -> list[TopicPartition]:
        """The offsets to commit; of what is new they are those that were committed before."""
        new = [TopicPartition(*place) for place, offset in self._held.items() if offset is None]
        if new:
            for each in consumer.committed(new, timeout=ANSWER):
                self._held[each.topic, each.partition] = max(each.offset, 0)
        return [TopicPartition(*place, offset) for place, offset in self._held.items() if offset is not None]

    def _joined(self) -> Consumer:
        if self._consumer is None:
            for topic in self._topics.values():
                self._log.writable(topic)
            self._consumer = self._log.cluster.consumer(**_OPTIONS, group_id=self._group)
            self._consumer.subscribe(
                list(self._topics), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
            )
        return self._consumer

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.incremental_assign(partitions)
        consumer.pause(partitions)
        self._member, self._asked = consumer.memberid() or "", -LEASE
        for each in partitions:
            self._held[each.topic, each.partition] = None
            self._taken.add((each.topic, each.partition))

    def _revoked(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        """The client gives them up when this returns."""
        for each in partitions:
            place = each.topic, each.partition
            if self._held.pop(place, None) is not None and place not in self._taken:
                self._lost.add(place)
            self._taken.discard(place)

    def _by_topic(self, places: Iterable[_Place]) -> dict[str, frozenset[int]]:
        found: dict[str, set[int]] = {}
        for real, partition in places:
            found.setdefault(self._topics[real], set()).add(partition)
        return {topic: frozenset(partitions) for topic, partitions in found.items()}
