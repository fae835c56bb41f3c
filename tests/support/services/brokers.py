"""The Kafka brokers that the tests use: one for all, started when first needed, and own ones for tests that kill them.

Chosen in this order: the brokers of ``ESPER_TEST_KAFKA`` (with ``ESPER_REGISTRY``), Docker, the jars;
``ESPER_TEST_BROKER=jars`` or ``docker`` forces one. What cannot be had is skipped, or, with ``ESPER_CI``, fails.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, Protocol

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from esper.dev.broker import known_brokers
from esper.dev.cluster import Cluster
from esper.dev.jars import java, maven
from esper.dev.processes import Process, alive, send
from esper.errors import EsperError

_TOLD = pytest.StashKey[tuple[str, str]]()


class Brokers(Protocol):
    """A cluster that a test may do anything to. Brokers are numbered from 1, and killed with SIGKILL."""

    @property
    def addresses(self) -> str:
        """``HOST:PORT[,HOST:PORT...]``."""

    @property
    def registry(self) -> str:
        """The registry's URL; empty where it has none."""

    @property
    def killed_at(self) -> float:
        """The monotonic time of the last kill."""

    def kill(self, number: int) -> None:
        """Kill it and wait until it is dead."""

    def restart(self, number: int) -> None:
        """Start a killed broker and wait until it answers."""

    def close(self) -> None: ...


class JarBrokers:
    """Processes started as ``esper dev up`` does."""

    def __init__(self, brokers: int, *, with_registry: bool, settings: Mapping[str, str]) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="esper-brokers-"))
        self.cluster = Cluster(self.home, settings)
        self.registry = ""
        self._processes: dict[int, Process] = {}
        try:
            found = self.cluster.up(brokers, with_registry=with_registry)
        except BaseException:
            self.close()
            raise
        self.addresses = found.log.removeprefix("kafka://")
        self.registry = found.registry
        self.killed_at = 0.0
        self._processes |= {number: self.cluster.process(number) for number in range(1, brokers + 1)}

    def kill(self, number: int) -> None:
        process = self._processes[number]
        send(process, signal.SIGKILL)
        self.killed_at = time.monotonic()
        until = time.monotonic() + 10
        while alive(process) and time.monotonic() < until:
            time.sleep(0.01)

    def restart(self, number: int) -> None:
        self.cluster.start_broker(number)
        self._processes[number] = self.cluster.process(number)

    def close(self) -> None:
        if not self.registry:  # a test's own: its data is thrown away, so none of them need stop in good order
            for number in self._processes:
                self.kill(number)
        self.cluster.down()
        shutil.rmtree(self.home, ignore_errors=True)


class _Given:
    """The brokers that the environment names; not ours to kill or stop."""

    def __init__(self) -> None:
        self.addresses = os.environ["ESPER_TEST_KAFKA"]
        self.registry = os.environ.get("ESPER_REGISTRY", "")
        if not self.registry:
            missing("ESPER_TEST_KAFKA is set, ESPER_REGISTRY is not")
        if not known_brokers(self.addresses.split(","), timeout=10):
            missing(f"no broker answers at {self.addresses} (ESPER_TEST_KAFKA)")


def missing(reason: str) -> NoReturn:
    if os.environ.get("ESPER_CI"):
        pytest.fail(f"no Kafka for this test: {reason}", pytrace=False)
    pytest.skip(f"no Kafka for this test: {reason}")


@functools.cache
def _choice() -> tuple[str, str]:
    """jars, docker or nothing, and why. Cheap, for each test run begins with it: an image is sought when needed."""
    forced = os.environ.get("ESPER_TEST_BROKER", "")
    if forced not in ("", "jars", "docker"):
        raise pytest.UsageError(f"ESPER_TEST_BROKER is {forced!r}; it may be jars or docker")
    if forced:
        return forced, "ESPER_TEST_BROKER says so"
    from tests.support.services import containers

    return ("docker", "a daemon answers") if containers.answers() else _without_docker("no Docker daemon answers")


def _without_docker(reason: str) -> tuple[str, str]:
    try:
        java(), maven()
    except EsperError as error:
        return "nothing", f"{reason}, and {error}"
    return "jars", reason


@functools.cache
def _decided() -> tuple[str, str]:
    """As ``_choice``, once it is known whether there is an image."""
    kind, why = _choice()
    if kind == "docker":
        from tests.support.services import containers

        try:
            containers.images()
        except EsperError as error:
            if os.environ.get("ESPER_TEST_BROKER"):
                return "nothing", str(error)
            return _without_docker(str(error))
    return kind, why


def _started(brokers: int, *, with_registry: bool, settings: Mapping[str, str]) -> Brokers:
    kind, why = _decided()
    try:
        if kind == "docker":
            from tests.support.services.containers import DockerBrokers

            return DockerBrokers(brokers, with_registry=with_registry, settings=settings)
        if kind == "jars":
            return JarBrokers(brokers, with_registry=with_registry, settings=settings)
    except EsperError as error:
        missing(str(error))
    missing(why)


def pytest_report_header() -> str:
    """Which brokers these tests use."""
    if os.environ.get("ESPER_TEST_KAFKA"):
        return f"Kafka: the brokers at {os.environ['ESPER_TEST_KAFKA']} (ESPER_TEST_KAFKA)"
    kind, why = _choice()
    return f"Kafka: {kind} ({why})"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process that tests beside another tells the first one what it decided."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None and _decided.cache_info().currsize:
        output["kafka"] = _decided()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    decided = getattr(node, "workeroutput", {}).get("kafka")
    if decided is not None:
        node.config.stash[_TOLD] = decided


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell where the choice had to be changed."""
    decided = terminalreporter.config.stash.get(_TOLD, None)
    if decided is None and _decided.cache_info().currsize:
        decided = _decided()
    if decided is not None and decided != _choice():
        terminalreporter.write_line("Kafka: {} ({})".format(*decided))


@pytest.fixture(scope="session")
def shared_brokers() -> Iterator[Brokers | _Given]:
    """The broker and registry for all tests; not to be killed."""
    if os.environ.get("ESPER_TEST_KAFKA"):
        yield _Given()
        return
    with contextlib.closing(_started(1, with_registry=True, settings={})) as brokers:
        yield brokers


@pytest.fixture
def kafka_log_url(shared_brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """Makes the URL of a new, empty log each time it is called: a prefix of its own, with its topics."""
    monkeypatch.setenv("ESPER_REGISTRY", shared_brokers.registry)
    made: list[str] = []

    def make() -> str:
        made.append(new_log(shared_brokers.addresses))
        return made[-1]

    yield make
    if made:
        _remove_topics(shared_brokers.addresses, [url.rpartition("/")[2] for url in made])


@pytest.fixture
def own_cluster(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Brokers]]:
    """Starts brokers for this test alone: ``own_cluster(3)``, with a broker's ``settings`` on top of the usual ones.

    Their schemas are in the registry that all tests share; a test that needs none says ``registry=False``.
    """
    with contextlib.ExitStack() as stack:

        def start(brokers: int = 1, *, registry: bool = True, settings: Mapping[str, str] | None = None) -> Brokers:
            if registry:
                monkeypatch.setenv("ESPER_REGISTRY", request.getfixturevalue("shared_brokers").registry)
            cluster = _started(brokers, with_registry=False, settings=settings or {})
            return stack.enter_context(contextlib.closing(cluster))

        yield start


def new_log(addresses: str) -> str:
    """The URL of a log that nobody else uses, with its topics."""
    from esper.log.kafka import open_kafka
    from esper.log.kafka.admin.topics import make_topics

    url = f"kafka://{addresses}/test-{uuid.uuid4().hex[:12]}"
    make_topics(open_kafka(url))
    return url


def _remove_topics(addresses: str, prefixes: list[str]) -> None:
    """A broker keeps files open for each partition, and a suite makes thousands."""
    admin = AdminClient({"bootstrap.servers": addresses, "log_level": 0})
    with contextlib.suppress(KafkaException):
        topics = [topic for topic in admin.list_topics(timeout=10).topics if topic.partition(".")[0] in prefixes]
        for future in admin.delete_topics(topics).values() if topics else ():
            future.result(10)
