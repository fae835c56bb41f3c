"""Brokers and a registry in Docker, by testcontainers.

The image is apache/kafka where it can be pulled, else one that ``tools/kafka-image.sh`` makes of Debian and the jars.
"""

from __future__ import annotations

import gc
import os
import subprocess
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from esper.dev import broker, registry
from esper.dev.jars import KAFKA
from esper.dev.ports import free_ports
from esper.errors import ClusterUnavailable

# Its helper container, which clears up after a test run that died, is one more image to pull.
os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")

from docker.errors import DockerException, ImageNotFound
from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import DockerClient
from testcontainers.core.network import Network

from tests.support.paths import ROOT

BUILT = f"esper/kafka:{KAFKA}"
PUBLIC = f"apache/kafka:{KAFKA}", "apicurio/apicurio-registry:3.0.9"
_START = 90.0
_INTERNAL, _CONTROLLER, _EXTERNAL, _REGISTRY = 9095, 9093, 9092, 8080

_BROKER = """\
printf %s "$SERVER_PROPERTIES" > /tmp/server.properties
[ -e /tmp/data/meta.properties ] || java -Xmx256m -XX:TieredStopAtLevel=1 -cp '/opt/kafka/libs/*' \
    kafka.tools.StorageTool format --ignore-formatted -t "$CLUSTER_ID" -c /tmp/server.properties || exit 1
exec java -Xmx"$HEAP" -XX:TieredStopAtLevel=1 -cp '/opt/kafka/libs/*' kafka.Kafka /tmp/server.properties
"""


@dataclass(frozen=True, slots=True)
class Images:
    broker: str
    registry: str

    @property
    def registry_command(self) -> list[str] | None:
        """What starts a registry; None where the image's own command does."""
        if self.registry != BUILT:
            return None
        return ["sh", "-c", "exec java -Xmx512m -XX:TieredStopAtLevel=1 -jar /opt/registry/*-runner.jar"]


def answers() -> bool:
    """Whether a Docker daemon answers, the one of ``DOCKER_HOST`` or the machine's own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the client leaves its socket open when nobody answers
        found = _answers()
        gc.collect()
    return found


def _answers() -> bool:
    try:
        client = DockerClient(timeout=3).client
        try:
            return bool(client.ping())
        finally:
            client.close()
    except DockerException:
        return False


def images() -> Images:
    """What is there, can be pulled, or can be built, in this order; raises ClusterUnavailable."""
    client = DockerClient().client
    try:
        for found in (Images(*PUBLIC), Images(BUILT, BUILT)):
            if all(_present(client, name) for name in (found.broker, found.registry)):
                return found
        try:
            for name in PUBLIC:
                client.images.pull(name)
            return Images(*PUBLIC)
        except DockerException:
            pass
    finally:
        client.close()
    built = subprocess.run([ROOT / "tools/kafka-image.sh", BUILT], capture_output=True, text=True, check=False)
    if built.returncode:
        said = built.stderr.strip().splitlines()
        raise ClusterUnavailable(
            f"{PUBLIC[0]} cannot be pulled, nor an image built: {said[-1] if said else 'no reason'}"
        )
    return Images(BUILT, BUILT)


def _present(client: Any, name: str) -> bool:
    try:
        client.images.get(name)
    except ImageNotFound:
        return False
    return True


class DockerBrokers:
    """One broker or three in a network of their own, on ports of this machine that stay the same; ``Brokers``."""

    def __init__(self, brokers: int, *, with_registry: bool, settings: Mapping[str, str]) -> None:
        self.images = images()
        self._network = Network().create()
        self._started: dict[str, DockerContainer] = {}
        host = DockerClient().host()
        self._host = "127.0.0.1" if host == "localhost" else host
        self._ports = free_ports(brokers + 1)
        self.addresses = ",".join(f"{self._host}:{port}" for port in self._ports[:brokers])
        self.registry = ""
        self.killed_at = 0.0
        try:
            cluster_id = broker.new_cluster_id()
            for number in range(1, brokers + 1):
                self._start_broker(number, brokers, cluster_id, settings)
            self._wait(lambda: len(broker.known_brokers(self.addresses.split(","))) == brokers)
            if with_registry:
                self._start_registry(brokers)
        except BaseException:
            self.close()
            raise

    def kill(self, number: int) -> None:
        container = self._started[f"broker-{number}"].get_wrapped_container()
        container.kill("SIGKILL")
        self.killed_at = time.monotonic()
        container.wait(timeout=30)

    def restart(self, number: int) -> None:
        self._started[f"broker-{number}"].get_wrapped_container().start()
        address = self.addresses.split(",")[number - 1]
        self._wait(lambda: number in broker.known_brokers([address]))

    def close(self) -> None:
        for container in self._started.values():
            container.stop()
        self._started.clear()
        self._network.remove()

    def _start_broker(self, number: int, brokers: int, cluster_id: str, settings: Mapping[str, str]) -> None:
        # A broker writes transaction markers to itself, by the address that it advertises to brokers: the port of
        # this machine would not do, for it leads nowhere inside the container.
        lines = broker.settings(brokers) | {
            "node.id": str(number),
            "controller.quorum.voters": ",".join(f"{n}@broker-{n}:{_CONTROLLER}" for n in range(1, brokers + 1)),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "INTERNAL",
            "listeners": f"INTERNAL://:{_INTERNAL},EXTERNAL://:{_EXTERNAL},CONTROLLER://:{_CONTROLLER}",
            "advertised.listeners": f"INTERNAL://broker-{number}:{_INTERNAL},"
            f"EXTERNAL://{self._host}:{self._ports[number - 1]}",
            "listener.security.protocol.map": "INTERNAL:PLAINTEXT,EXTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": "/tmp/data",
            **settings,
        }
        container = DockerContainer(
            self.images.broker,
            command=["sh", "-c", _BROKER],
            env={
                "SERVER_PROPERTIES": "".join(f"{name}={value}\n" for name, value in lines.items()),
                "CLUSTER_ID": cluster_id,
                "HEAP": "1g" if brokers == 1 else "512m",
            },
        )
        self._start(f"broker-{number}", container, _EXTERNAL, self._ports[number - 1])

    def _start_registry(self, brokers: int) -> None:
        addresses = [f"broker-{number}:{_INTERNAL}" for number in range(1, brokers + 1)]
        env = registry.environment(addresses) | {"QUARKUS_HTTP_HOST": "0.0.0.0", "QUARKUS_HTTP_PORT": str(_REGISTRY)}
        container = DockerContainer(self.images.registry, command=self.images.registry_command, env=env)
        self._start("registry", container, _REGISTRY, self._ports[-1])
        self.registry = registry.url(self._ports[-1], self._host)
        self._wait(lambda: registry.answers(self.registry))

    def _start(self, name: str, container: DockerContainer, inside: int, port: int) -> None:
        # On this machine nobody else may reach them.
        container.ports[str(inside)] = ("127.0.0.1", port) if self._host == "127.0.0.1" else port
        container.with_network(self._network).with_network_aliases(name)
        self._started[name] = container
        try:
            container.start()
        except DockerException as error:
            raise ClusterUnavailable(f"{name}: Docker could not start it: {error}") from error

    def _wait(self, ready: Callable[[], bool]) -> None:
        until = time.monotonic() + _START
        while not ready():
            if time.monotonic() > until:
                raise ClusterUnavailable(f"the containers did not answer within {_START:.0f} s: {self._last_words()}")
            time.sleep(0.1)

    def _last_words(self) -> str:
        said = []
        for name, container in self._started.items():
            wrapped = container.get_wrapped_container()
            lines = wrapped.logs(tail=3).decode(errors="replace").splitlines()
            said.append(f"{name}: {lines[-1] if lines else 'nothing'}")
        return "; ".join(said)
