"""``esper doctor`` on a broker's release and on what a broker on this machine needs."""

from __future__ import annotations

import json
import socket
import struct
import threading

import pytest

from esper.cli.main import main
from esper.cli.operating import doctor
from esper.connections import KafkaSettings
from esper.log.kafka.admin.release import release_line


def varint(value: int) -> bytes:
    assert value < 128
    return bytes([value])


def api_versions(newest_metadata: int | None) -> bytes:
    """A broker's answer to ApiVersions, version 3, with the tagged fields around the one that matters."""
    one_api = struct.pack(">hhh", 18, 0, 4) + b"\0"
    body = struct.pack(">ih", 1, 0) + varint(2) + one_api + struct.pack(">i", 0)
    other = varint(14) + b"group.version" + struct.pack(">hh", 0, 1) + b"\0"
    if newest_metadata is None:
        features = varint(2) + other
    else:
        features = varint(3) + other
        features += varint(17) + b"metadata.version" + struct.pack(">hh", 7, newest_metadata) + b"\0"
    return body + varint(2) + varint(1) + varint(8) + bytes(8) + varint(0) + varint(len(features)) + features


@pytest.fixture
def answering():
    """``answering(bytes)`` listens on a port and answers each request with them."""
    listeners = []

    def start(answer: bytes) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1000)
                    connection.sendall(struct.pack(">i", len(answer)) + answer)

        threading.Thread(target=serve, daemon=True).start()
        return listener.getsockname()[1]

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.mark.parametrize(
    ("metadata", "line"), [(29, "4.2"), (30, "4.3"), (25, "4.0"), (20, "older than 4.0"), (99, None), (None, None)]
)
def test_the_release_line_follows_from_the_metadata_that_a_broker_supports(answering, metadata, line):
    assert release_line("127.0.0.1", answering(api_versions(metadata)), KafkaSettings()) == line


@pytest.mark.parametrize("answer", [b"", b"\0\0\0\1", b"\0\0\0\1\0\0\7", b"HTTP/1.1 400 Bad Request"])
def test_what_is_no_broker_is_an_error_of_one_kind(answering, answer):
    with pytest.raises(OSError, match="no Kafka broker"):
        release_line("127.0.0.1", answering(answer), KafkaSettings())


def findings(capsys: pytest.CaptureFixture[str], url: str) -> dict[str, dict[str, str]]:
    main(["doctor", "--json", "--log", url])
    return {each["name"]: each for each in json.loads(capsys.readouterr().out)["findings"]}


def test_doctor_reaches_the_log_and_names_the_release(kafka_log_url, capsys):
    found = findings(capsys, kafka_log_url())
    assert found["log"]["level"] == "ok"
    assert found["broker"]["level"] == "ok"
    assert found["broker"]["found"].endswith("is Kafka 4.2")
    assert found["registry"]["level"] == "ok"


def test_doctor_warns_of_releases_that_lose_commits(answering, monkeypatch, capsys):
    monkeypatch.setenv("ESPER_REGISTRY", "http://127.0.0.1:1")
    monkeypatch.setattr("esper.cli.operating.doctor._LOOKS", (doctor._kafka,))
    found = findings(capsys, f"kafka://127.0.0.1:{answering(api_versions(30))}")
    assert found["broker"]["level"] == "warning"
    assert "4.3.0 and 4.3.1 lose acknowledged events" in found["broker"]["remedy"]


def test_doctor_says_which_broker_is_down(monkeypatch, capsys):
    monkeypatch.setattr("esper.cli.operating.doctor._LOOKS", (doctor._kafka,))
    found = findings(capsys, "kafka://127.0.0.1:1")
    assert found["broker"]["level"] == "warning"
    assert "127.0.0.1:1 does not answer" in found["broker"]["found"]


def test_doctor_says_what_to_install_for_brokers_of_ones_own(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    found = findings(capsys, f"sqlite:///{tmp_path}/log.db")
    assert [found[name]["level"] for name in ("Java", "Maven")] == ["warning", "warning"]
    assert "sudo apt-get install openjdk-17-jre-headless maven" in found["Java"]["found"]
