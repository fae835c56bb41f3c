"""``esper dev``: one broker and registry taken through its life. The tests of this file follow on one another."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from esper.dev import Cluster
from esper.dev.jars import java, maven
from esper.errors import EsperError
from esper.events.topics import PARTITIONS, RUNS, SIGNALS
from tests.support.command import Esper, runner
from tests.support.services.brokers import missing

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    try:
        java(), maven()
    except EsperError as error:
        missing(str(error))
    folder = tmp_path_factory.mktemp("dev") / "home"
    yield folder
    Cluster(folder).down()


@pytest.fixture
def esper(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Esper:
    monkeypatch.delenv("ESPER_LOG", raising=False)
    monkeypatch.setenv("ESPER_REGISTRY", "http://127.0.0.1:1")  # which `up` must not use
    return runner(home, capsys)


def brokers_of(home: Path) -> str:
    return Cluster(home).addresses().log.removeprefix("kafka://")


def write(home: Path, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": brokers_of(home), "log_level": 0})
    producer.produce(SIGNALS, value, key=b"run")
    assert producer.flush(30) == 0


def written(home: Path, count: int) -> list[bytes]:
    """The values on the signals' topic."""
    settings = {"bootstrap.servers": brokers_of(home), "group.id": "test", "auto.offset.reset": "earliest"}
    consumer = Consumer(settings | {"enable.auto.commit": False, "log_level": 0})
    consumer.subscribe([SIGNALS])
    messages = consumer.consume(count, timeout=30)
    consumer.close()
    return [message.value() for message in messages]


def ask(url: str, body: bytes | None = None) -> Any:
    """What the registry answers."""
    asked = urllib.request.Request(url, body, {"Content-Type": "application/vnd.schemaregistry.v1+json"})
    with urllib.request.urlopen(asked, timeout=10) as reply:
        return json.load(reply)


def test_up_prints_the_addresses_as_its_last_line(esper, home):
    result = esper("dev", "up", "--json")
    assert result.code == 0, result.err
    assert set(result.json) == {"log", "registry"}
    assert re.fullmatch(r"kafka://127\.0\.0\.1:\d+", result.json["log"])
    assert isinstance(ask(f"{result.json['registry']}/subjects"), list)


def test_up_made_the_topics(home):
    topics = AdminClient({"bootstrap.servers": brokers_of(home), "log_level": 0}).list_topics(timeout=10).topics
    assert len(topics[RUNS].partitions) == PARTITIONS


def test_up_again_changes_nothing_and_prints_lines_to_paste(esper, home):
    before = (home / "state.json").read_text()
    result = esper("dev", "up")
    found = Cluster(home).addresses()
    assert result.out.splitlines() == [f"export ESPER_LOG={found.log}", f"export ESPER_REGISTRY={found.registry}"]
    assert (home / "state.json").read_text() == before


def test_up_with_another_number_of_brokers_is_refused(esper):
    result = esper("dev", "up", "--brokers", "3")
    assert result.code == 2
    assert "has 1 broker(s)" in result.err


def test_status_tells_what_answers(esper):
    result = esper("dev", "status", "--json")
    assert result.code == 0
    assert [(each["name"], each["answers"]) for each in result.json["services"]] == [
        ("broker-1", True),
        ("registry", True),
    ]


def test_a_broker_that_was_killed_is_mended_by_up(esper, home):
    write(home, b"before the kill")
    addresses = Cluster(home).addresses()
    body = json.dumps({"schema": '"string"'}).encode()
    ask(f"{addresses.registry}/subjects/kept/versions", body)
    os.kill(Cluster(home).process(1).pid, signal.SIGKILL)
    assert esper("dev", "status").code == 1
    result = esper("dev", "up", "--json")
    assert result.code == 0, result.err
    assert result.json == {"log": addresses.log, "registry": addresses.registry}
    assert written(home, 1) == [b"before the kill"]


def test_down_stops_both_and_status_says_so(esper, home):
    addresses = Cluster(home).addresses()
    assert esper("dev", "down", "--json").json == {"stopped": ["broker-1", "registry"]}
    result = esper("dev", "status", "--json")
    assert result.code == 1
    assert [(each["pid"], each["answers"]) for each in result.json["services"]] == [(None, False), (None, False)]
    assert Cluster(home).addresses() == addresses


def test_data_and_addresses_survive_a_restart(esper, home):
    before = Cluster(home).addresses()
    result = esper("dev", "up", "--json")
    assert result.code == 0, result.err
    assert result.json == {"log": before.log, "registry": before.registry}
    write(home, b"after the restart")
    assert written(home, 2) == [b"before the kill", b"after the restart"]
    assert "kept" in ask(f"{before.registry}/subjects")


def test_a_port_that_another_took_meanwhile_is_named(esper, home):
    Cluster(home).down()
    port = int(brokers_of(home).rpartition(":")[2])
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", port))
        stranger.listen()
        result = esper("dev", "up")
    assert result.code == 1
    assert f"port {port} of the cluster in {home} is taken" in result.err
