"""A client that knows nothing of Esper, only Kafka, Avro and the registry: it reads a topic, or commands a run.

stock_client.py SERVERS REGISTRY read TOPIC
stock_client.py SERVERS REGISTRY command TOPIC RUN COMMAND NONCE
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from uuid import NAMESPACE_URL, uuid5

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient, topic_record_subject_name_strategy
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext


def read(servers: str, registry: SchemaRegistryClient, topic: str) -> None:
    """Print every record of ``topic`` that can be seen: where it lies, key, headers, and its value, decoded."""
    decode = AvroDeserializer(registry)
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "stock", "enable.partition.eof": True})
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
    left = len(partitions)
    while left:
        message = consumer.poll(30)
        if message is None:
            raise SystemExit("nothing came for 30 s")
        if message.error() is not None:
            if message.error().code() != KafkaError._PARTITION_EOF:
                raise SystemExit(str(message.error()))
            left -= 1
            continue
        value = decode(message.value(), SerializationContext(topic, MessageField.VALUE))
        headers = {name: text.decode() for name, text in message.headers() or ()}
        told = {
            "position": f"{topic}/{message.partition()}:{message.offset()}",
            "key": message.key().decode(),
            "headers": headers,
            "value": value,
        }
        print(json.dumps(told, default=str))
    consumer.close()


def command(servers: str, registry: SchemaRegistryClient, topic: str, run: str, wish: str, nonce: str) -> None:
    """Ask ``run`` for something, by a CommandIssued on ``topic``."""
    schema = registry.get_latest_version(f"{topic}-esper.signals.CommandIssued").schema.schema_str
    strategy = {
        "auto.register.schemas": False,
        "use.latest.version": True,
        "subject.name.strategy": topic_record_subject_name_strategy,
    }
    encode = AvroSerializer(registry, schema, conf=strategy)
    issuer = "a stock client"
    name = json.dumps(["esper.signals", run, issuer, nonce], separators=(",", ":"))
    envelope = {
        "id": str(uuid5(uuid5(NAMESPACE_URL, "urn:esper"), name)),
        "time": datetime.now(UTC),
        "writer": issuer,
        "epoch": None,
        "sequence": None,
        "causes": [],
    }
    value = {"envelope": envelope, "command": wish, "seed": None, "issuer": issuer, "nonce": nonce, "reason": "because"}
    # Not the client's own default: a command belongs in the partition where Java, and the trainer, look for its key.
    producer = Producer({"bootstrap.servers": servers, "partitioner": "murmur2_random", "acks": "all"})
    body = encode({**value, "measured": None}, SerializationContext(topic, MessageField.VALUE))
    producer.produce(topic, body, run)
    if producer.flush(30):
        raise SystemExit("the command could not be sent")
    print(envelope["id"])


def main(servers: str, registry: str, verb: str, *words: str) -> None:
    with SchemaRegistryClient({"url": registry}) as client:
        {"read": read, "command": command}[verb](servers, client, *words)


if __name__ == "__main__":
    main(*sys.argv[1:])
