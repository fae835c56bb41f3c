"""Transactions that are open on a log's topics, whose they are, and ending a run's.

Readers see nothing behind an open transaction. No client of ours can ask brokers for their transactions, but where
one begins shows: there the committed part of a partition ends. The record that lies there names the run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from esper.events.topics import INDEX, PARTITIONS, RUNS, TOPICS
from esper.log.kafka.connection import KafkaConnection
from esper.log.kafka.reader import Message
from esper.log.kafka.transactions import Transactions
from esper.log.port import Position

HANGING = 60.0
"""Seconds after which a transaction should have ended by itself: twice what a trainer's may last."""


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """The oldest open transaction of a partition.

    ``position`` is its first record there, ``behind`` the number of offsets that are hidden with it, ``key`` the
    record's key, ``run_id`` the run that it belongs to (None where the topic's keys do not say), ``writer`` what its
    header ``ce_source`` says, ``seconds`` its age.
    """

    position: Position
    behind: int
    key: str
    run_id: str | None
    writer: str
    seconds: float

    @property
    def hanging(self) -> bool:
        """Whether it is too old for a trainer at work."""
        return self.seconds > HANGING


def open_transactions(log: KafkaConnection) -> Iterator[OpenTransaction]:
    """The oldest open transaction of each partition, of those topics that are there."""
    for topic in TOPICS:
        if not log.partitions(topic):
            continue
        every = range(PARTITIONS)
        reached, last = log.reader.ends(topic, every), log.reader.last(topic, every)
        for partition in every:
            if reached[partition] < last[partition]:
                found = log.reader.uncommitted(topic, partition, reached[partition])
                if found is not None:
                    yield _told(topic, found, last[partition] - reached[partition])


def end_transaction(log: KafkaConnection, run_id: str) -> None:
    """End the run's open transaction by fencing its writer; a trainer that lives opens another and goes on."""
    deadline = time.monotonic() + 30
    name = log.address.transactional_id(run_id)
    Transactions(log.cluster, name, log.transaction_timeout, deadline).close()


def abort_command(log: KafkaConnection, found: OpenTransaction) -> str:
    """Kafka's own command for a transaction that its coordinator has forgotten."""
    place, topic = found.position, log.address.named(found.position.topic)
    return (
        f"kafka-transactions.sh --bootstrap-server {log.address.servers} abort --topic {topic} "
        f"--partition {place.partition} --start-offset {place.offset}"
    )


def _told(topic: str, message: Message, behind: int) -> OpenTransaction:
    key = (message.key() or b"").decode(errors="backslashreplace")
    headers = dict(message.headers() or ())
    written = datetime.fromtimestamp(message.timestamp()[1] / 1000, UTC)
    return OpenTransaction(
        position=Position(topic, message.partition(), message.offset()),
        behind=behind,
        key=key,
        run_id=key if topic in (RUNS, INDEX) else None,
        writer=(headers.get("ce_source") or b"").decode(errors="backslashreplace"),
        seconds=(datetime.now(UTC) - written).total_seconds(),
    )
