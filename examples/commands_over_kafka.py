"""Asks a running training over Kafka to pause, as any program can: with Kafka's client, Avro and the registry alone.

    esper dev up    # and paste the two lines that it prints: ESPER_LOG, ESPER_REGISTRY
    python examples/commands_over_kafka.py [HOME]

The training is another process, `esper train`. What is sent is a CommandIssued on `esper.signals`; the trainer
answers at its next boundary with CommandAccepted, in the run's own events.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from datetime import UTC, datetime

from confluent_kafka import Producer
from confluent_kafka.schema_registry import SchemaRegistryClient, topic_record_subject_name_strategy
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

import esper
from esper.events.runs import CommandAccepted


def command(log: str, registry: str, run_id: str, wish: str, issuer: str = "an example") -> uuid.UUID:
    """Send a command to a run; gives its id. ``log`` is kafka://HOST:PORT[,HOST:PORT...][/PREFIX]."""
    servers, _, prefix = log.removeprefix("kafka://").partition("/")
    topic = f"{prefix}.esper.signals" if prefix else "esper.signals"
    nonce = str(uuid.uuid4())  # of one issuer, the same nonce is the same command: it may be sent again
    name = json.dumps(["esper.signals", run_id, issuer, nonce], separators=(",", ":"))
    identity = uuid.uuid5(uuid.uuid5(uuid.NAMESPACE_URL, "urn:esper"), name)
    envelope = {"id": str(identity), "time": datetime.now(UTC), "writer": issuer, "epoch": None, "sequence": None}
    content = {"command": wish, "seed": None, "issuer": issuer, "nonce": nonce, "reason": "to show how", "value": None}
    with SchemaRegistryClient({"url": registry}) as client:
        schema = client.get_latest_version(f"{topic}-esper.signals.CommandIssued").schema.schema_str
        encode = AvroSerializer(
            client,
            schema,
            conf={
                "auto.register.schemas": False,
                "use.latest.version": True,
                "subject.name.strategy": topic_record_subject_name_strategy,
            },
        )
        value = {"envelope": {**envelope, "causes": []}, **content, "measured": None}
        body = encode(value, SerializationContext(topic, MessageField.VALUE))
    # The partition follows from the run's name by the rule of Java's clients, which is not librdkafka's own.
    producer = Producer({"bootstrap.servers": servers, "partitioner": "murmur2_random", "acks": "all"})
    producer.produce(topic, body, run_id)
    if producer.flush(30):
        raise SystemExit("the command could not be sent")
    return identity


def main(home: str = ".esper") -> None:
    log, registry = os.environ["ESPER_LOG"], os.environ["ESPER_REGISTRY"]
    run_id = f"commanded-{uuid.uuid4().hex[:8]}"
    words = ["train", "--task", "digits", "--steps", "100000", "--run-id", run_id, "--log", log, "--home", home]
    training = subprocess.Popen([sys.executable, "-m", "esper", *words], stderr=subprocess.PIPE, text=True)
    with esper.connect(home, log=log) as connection:
        while run_id not in [run.run_id for run in connection.runs()] or connection.run(run_id).state().step < 100:
            if training.poll() is not None:
                raise SystemExit(training.communicate()[1])
            time.sleep(0.5)
        identity = command(log, registry, run_id, "pause")
        print(f"asked {run_id} to pause: {identity}")
        print(training.communicate()[1].splitlines()[-1])
        run = connection.run(run_id)
        for event in run.events("CommandAccepted"):
            assert isinstance(event.content, CommandAccepted)
            print(f"accepted {event.content.command} at step {event.content.step}; the run is {run.status}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
