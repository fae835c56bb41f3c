"""What was acknowledged is there after a broker's kill -9, however soon after the commits it came."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.support.services.brokers import JarBrokers

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

ROUNDS, PRODUCERS, RECORDS = 10, 6, 5
TOPIC, PARTITIONS = "acknowledged", 12
SOON = 0.010  # seconds between the last commit's return and the kill


class Round:
    """The commits of one round: all at once, and whoever returns last kills the broker."""

    def __init__(self, kill: Callable[[], None]) -> None:
        self.ready = threading.Barrier(PRODUCERS)
        self.over = 0.0
        self._kill, self._lock, self._out = kill, threading.Lock(), PRODUCERS

    def returned(self) -> None:
        now = time.monotonic()
        with self._lock:
            self._out -= 1
            last = self._out == 0
        if last:
            self.over = now
            self._kill()


class Committer:
    """One transactional producer at a time; a round's takes over from that of the round before, as a resume does."""

    def __init__(self, addresses: str, name: str) -> None:
        self.addresses, self.name = addresses, name
        self.acknowledged: list[str] = []
        self.error: BaseException | None = None

    def commit(self, now: Round) -> None:
        try:
            producer = Producer(
                {
                    "bootstrap.servers": self.addresses,
                    "transactional.id": self.name,
                    "partitioner": "murmur2_random",
                    "linger.ms": 0,
                    "log_level": 0,
                }
            )
            producer.init_transactions(30)
            values = [f"{self.name}/{uuid.uuid4()}" for _ in range(RECORDS)]
            producer.begin_transaction()
            for value in values:
                producer.produce(TOPIC, value, key=value)
            producer.flush(30)
            now.ready.wait(60)
            producer.commit_transaction(30)
            now.returned()
            self.acknowledged += values
        except BaseException as error:  # noqa: BLE001  told to the test's own thread
            self.error = error
            now.ready.abort()


def consumer(addresses: str, isolation: str) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": addresses,
            "group.id": f"reader-{uuid.uuid4()}",
            "isolation.level": isolation,
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )


def ends(addresses: str, until: float) -> dict[int, int]:
    """The partitions' high watermarks. A read_committed consumer is told the last stable offset instead, before which
    an open transaction would hide what we look for."""
    asking = consumer(addresses, "read_uncommitted")
    try:
        while True:
            places = [TopicPartition(TOPIC, partition) for partition in range(PARTITIONS)]
            try:
                return {place.partition: asking.get_watermark_offsets(place, timeout=10)[1] for place in places}
            except KafkaException:  # a broker that is back may not lead its partitions yet
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)
    finally:
        asking.close()


def read_all(addresses: str, *, seconds: float) -> list[str]:
    """Everything that read_committed shows up to the partitions' ends; fails when that takes longer."""
    until = time.monotonic() + seconds
    wanted = {partition: end for partition, end in ends(addresses, until).items() if end}
    reader = consumer(addresses, "read_committed")
    try:
        reader.assign([TopicPartition(TOPIC, partition, 0) for partition in wanted])
        values: list[str] = []
        while time.monotonic() < until:
            values += [message.value().decode() for message in reader.consume(1000, timeout=0.2)]
            reached = {place.partition: place.offset for place in reader.position(reader.assignment())}
            if all(reached[partition] >= end for partition, end in wanted.items()):
                return values
        pytest.fail(f"read_committed stopped at {reached} of {wanted}")
    finally:
        reader.close()


@pytest.mark.timeout(400)
def test_commits_survive_a_kill_that_follows_them_at_once(own_cluster):
    # With a shorter session, which would make this test faster, even Kafka 4.3.0 loses nothing.
    brokers = own_cluster(1, registry=False)
    admin = AdminClient({"bootstrap.servers": brokers.addresses, "log_level": 0})
    admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)])[TOPIC].result(30)
    committers = [Committer(brokers.addresses, f"committer-{n}") for n in range(PRODUCERS)]
    delays = []
    for _ in range(ROUNDS):
        now = Round(lambda: brokers.kill(1))
        threads = [threading.Thread(target=committer.commit, args=(now,)) for committer in committers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [committer.error for committer in committers] == [None] * PRODUCERS
        delays.append(brokers.killed_at - now.over)
        brokers.restart(1)
        # Before the producers go on: the next marker of one of them would end a transaction that hangs.
        acknowledged = [value for committer in committers for value in committer.acknowledged]
        assert sorted(read_all(brokers.addresses, seconds=20)) == sorted(acknowledged)
    assert len(acknowledged) == ROUNDS * PRODUCERS * RECORDS
    # Docker takes its time to kill.
    assert not isinstance(brokers, JarBrokers) or min(delays) < SOON, "the kills came too late to show anything"
