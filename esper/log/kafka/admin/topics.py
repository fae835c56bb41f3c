"""The topics of a log on Kafka: which there are, making them, and telling where they have drifted."""

from __future__ import annotations

import time
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import ConfigResource, NewTopic, ResourceType, TopicDescription

from esper.errors import LogError
from esper.events.encoding.evolution import past
from esper.events.encoding.schemas import Schema, schema_named, schema_of
from esper.events.topics import INDEX, PARTITIONS, TOPICS, Topic
from esper.log.kafka.clients import ANSWER, OVERHEAD
from esper.log.kafka.connection import KafkaConnection
from esper.log.kafka.registry import subject_of
from esper.log.port import MAX_BYTES

_DAY = 24 * 3600 * 1000


def configuration(topic: Topic) -> dict[str, str]:
    """A topic's options, as far as they matter to us. Its records' time is the broker's: a client whose clock jumps can
    neither be refused nor have its records deleted early."""
    return {
        "cleanup.policy": "compact" if topic.compacted else "delete",
        "retention.ms": "-1" if topic.days is None else str(topic.days * _DAY),
        "retention.bytes": "-1",
        "message.timestamp.type": "LogAppendTime",
        "max.message.bytes": str(MAX_BYTES + OVERHEAD),
    }


def make_topics(log: KafkaConnection) -> list[str]:
    """Make the topics that are missing, wait until they can be written, and return their names."""
    admin, named = log.cluster.admin, log.address.named
    there = _led(log)
    missing = [topic for topic in TOPICS if topic not in there]
    if missing:
        copies = _copies(log)
        wanted = [NewTopic(named(topic), PARTITIONS, copies, config=_wanted(topic, copies)) for topic in missing]
        for name, future in admin.create_topics(wanted).items():
            try:
                future.result(timeout=ANSWER)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise log.cluster.error(f"making topic {name}", error) from error
        _await_leaders(log)
    return missing


@dataclass(frozen=True, slots=True)
class Registered:
    """How many schemas were registered just now, and how many had been before."""

    new: int
    there: int


def register_schemas(log: KafkaConnection) -> Registered:
    """Register the schema of every record type on its topic. Raises LogError for one that does not read what was
    written before."""
    subjects, new = log.registry.subjects, 0
    for topic, schema in schemas():
        real = log.address.named(topic)
        subject = subject_of(real, schema.name)
        if subjects.looked_up(subject, schema) is None:
            new += 1
            if not subjects.versions(subject):
                for version in past(schema.name):  # so that a run of any age can be copied here
                    log.registry.register(real, version)
        log.registry.register(real, schema)
    return Registered(new, len(schemas()) - new)


def schemas() -> list[tuple[str, Schema]]:
    """Every topic with the schemas of what we write on it."""
    pairs = [(topic.name, schema_of(content)) for topic in TOPICS.values() for content in topic.contents]
    return [*pairs, (INDEX, schema_named("esper.RunIndex"))]


def drift(log: KafkaConnection) -> list[str]:
    """How the topics differ from what they have to be, a line for each difference."""
    admin, named = log.cluster.admin, log.address.named
    copies = _copies(log)
    described = _described(log)
    resources = {topic: ConfigResource(ResourceType.TOPIC, named(topic)) for topic in described}
    futures = admin.describe_configs(list(resources.values()))
    lines = [f"{named(topic)} is missing" for topic in TOPICS if topic not in described]
    for topic, description in described.items():
        name, count = named(topic), len(description.partitions)
        if count != PARTITIONS:
            lines.append(f"{name} has {count} partitions, not {PARTITIONS}; it cannot be mended: make it anew")
        least = min((len(part.replicas) for part in description.partitions), default=0)
        if least < copies:
            lines.append(f"{name} has {least} replicas, not {copies}; kafka-reassign-partitions.sh adds some")
        found = log.cluster.result(futures[resources[topic]], f"asking for the configuration of {name}")
        for option, value in _wanted(topic, copies).items():
            if found[option].value != value:
                lines.append(
                    f"{name} has {option}={found[option].value}, not {value}; mend it with kafka-configs.sh "
                    f"--bootstrap-server {log.address.servers} --alter --topic {name} --add-config {option}={value}"
                )
    return lines


def _wanted(topic: str, copies: int) -> dict[str, str]:
    return configuration(TOPICS[topic]) | ({"min.insync.replicas": "2"} if copies == 3 else {})


def _copies(log: KafkaConnection) -> int:
    """Of each record: three where there are as many brokers."""
    brokers = log.cluster.result(log.cluster.admin.describe_cluster(), "asking for the brokers").nodes
    return min(3, len(brokers))


def _await_leaders(log: KafkaConnection) -> None:
    deadline = time.monotonic() + ANSWER
    while _led(log) != dict.fromkeys(TOPICS, True):
        if time.monotonic() > deadline:
            raise LogError(f"{log.address.servers}: the new topics have no leaders yet; look at the brokers")
        time.sleep(0.02)


def _led(log: KafkaConnection) -> dict[str, bool]:
    """Of the topics that are there: whether all their partitions have a leader."""
    return {
        topic: all(part.leader is not None and part.leader.id >= 0 for part in description.partitions)
        for topic, description in _described(log).items()
    }


def _described(log: KafkaConnection) -> dict[str, TopicDescription]:
    """The topics that are there."""
    admin, named = log.cluster.admin, log.address.named
    futures = admin.describe_topics(TopicCollection([named(topic) for topic in TOPICS]), request_timeout=ANSWER)
    found = {}
    for topic in TOPICS:
        try:
            found[topic] = futures[named(topic)].result(timeout=ANSWER + 1)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise log.cluster.error(f"asking for {topic}", error) from error
    return found
