"""One Kafka broker, which is a controller too: its configuration, its storage, its process, and whether it answers."""

from __future__ import annotations

import base64
import subprocess
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from esper.dev.jars import Jars, java
from esper.dev.processes import Process, spawn
from esper.errors import ClusterUnavailable
from esper.system.private import make_folder

_LOGGING = """\
status=error
appenders=out
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=[%d] %p %m (%c)%n
rootLogger.level=WARN
rootLogger.appenderRefs=out
rootLogger.appenderRef.out.ref=out
"""


@dataclass(frozen=True, slots=True)
class BrokerNode:
    """A broker's number in its cluster and its two ports on 127.0.0.1: for clients, and for the controllers' quorum."""

    number: int
    port: int
    controller_port: int

    @property
    def address(self) -> str:
        """Where clients reach it: ``127.0.0.1:PORT``."""
        return f"127.0.0.1:{self.port}"


def new_cluster_id() -> str:
    """As Kafka makes them; one that begins with a dash would look like an option to its tools."""
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not text.startswith("-"):
            return text


def settings(brokers: int) -> dict[str, str]:
    """What holds for each broker of a cluster for development, wherever it listens."""
    copies, least = (3, 2) if brokers >= 3 else (1, 1)
    return {
        "process.roles": "broker,controller",
        "auto.create.topics.enable": "false",
        "default.replication.factor": str(copies),
        "min.insync.replicas": str(least),
        "offsets.topic.replication.factor": str(copies),
        "offsets.topic.num.partitions": "6",
        "transaction.state.log.replication.factor": str(copies),
        "transaction.state.log.min.isr": str(least),
        "transaction.state.log.num.partitions": "6",
        "share.coordinator.state.topic.replication.factor": str(copies),
        "share.coordinator.state.topic.min.isr": str(least),
        # A trainer that was killed hides what others wrote behind its open transaction until this check ends it.
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
        # A broker that was killed comes back when its old session is over.
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "500",
        "group.initial.rebalance.delay.ms": "0",
        "log.retention.ms": "-1",
    }


def prepare(
    jars: Jars, node: BrokerNode, nodes: Sequence[BrokerNode], cluster_id: str, folder: Path, more: Mapping[str, str]
) -> None:
    """Write the broker's configuration, with ``more`` settings, into ``folder``; format its storage if that is new."""
    make_folder(folder)
    data = folder / "data"
    (folder / "log4j2.properties").write_text(_LOGGING)
    lines = settings(len(nodes)) | {
        "node.id": str(node.number),
        "controller.quorum.voters": ",".join(f"{each.number}@127.0.0.1:{each.controller_port}" for each in nodes),
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://{node.address},CONTROLLER://127.0.0.1:{node.controller_port}",
        "advertised.listeners": f"PLAINTEXT://{node.address}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": str(data.absolute()),
        **more,
    }
    configuration = folder / "server.properties"
    configuration.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
    if (data / "meta.properties").exists():
        return
    tool = ["kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(configuration), "--ignore-formatted"]
    done = subprocess.run([*_java(jars, folder, "256m"), *tool], capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        raise ClusterUnavailable(f"broker {node.number}: its storage could not be formatted: {said[-1]}")


def start(jars: Jars, folder: Path, *, heap: str) -> Process:
    """Start the broker that was prepared in ``folder``."""
    command = [*_java(jars, folder, heap), "kafka.Kafka", str((folder / "server.properties").absolute())]
    return spawn(command, output=folder / "broker.log")


def known_brokers(addresses: Iterable[str], *, timeout: float = 2.0) -> set[int]:
    """The numbers of the brokers that whoever answers at ``addresses`` knows to be up; empty when nobody answers."""
    client = AdminClient(
        {
            "bootstrap.servers": ",".join(addresses),
            "log_level": 0,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 200,
        }
    )
    try:
        return set(client.list_topics(timeout=timeout).brokers)
    except KafkaException:
        return set()


def _java(jars: Jars, folder: Path, heap: str) -> list[str]:
    logging = f"-Dlog4j2.configurationFile={(folder / 'log4j2.properties').absolute()}"
    # The second compiler costs more than it gains in a process that lives for minutes.
    return [java(), f"-Xmx{heap}", "-XX:TieredStopAtLevel=1", logging, "-cp", f"{jars.kafka}/*"]
