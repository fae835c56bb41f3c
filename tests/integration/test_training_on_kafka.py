"""Training on Kafka where it may differ from the embedded log: what is sent twice, and brokers that do not answer."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from esper.errors import LogError, LogRefused
from esper.events.encoding.schemas import schema_from_json
from esper.events.runs import CommandAccepted, CommandRejected
from esper.events.signals import CommandIssued
from esper.events.topics import RUNS
from esper.log import open_log
from esper.log.kafka.log import KafkaLog
from esper.log.kafka.registry import subject_of
from esper.log.records import signal_record
from tests.integration.test_signals import at
from tests.support.command import runner
from tests.support.logs.runlog import LOG_URL
from tests.support.runs.training import Loop, contents

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def home(kafka_log_url: Callable[[], str], tmp_path: Path) -> Path:
    (tmp_path / LOG_URL).write_text(kafka_log_url())
    return tmp_path


def send(home: Path, *contents: CommandIssued) -> None:
    log = open_log((home / LOG_URL).read_text())
    for content in contents:
        log.signal(signal_record("run", content, writer="test", time=datetime(2026, 1, 1, tzinfo=UTC)))
    log.close()


def command(kind: str, nonce: str) -> CommandIssued:
    return CommandIssued(command=kind, seed=None, issuer="test", nonce=nonce, reason="")


def test_a_schema_that_does_not_fit_ends_a_training_at_once(home: Path) -> None:
    log = open_log((home / LOG_URL).read_text())
    assert isinstance(log, KafkaLog)
    subject = subject_of(log.address.named(RUNS), "esper.runs.RunStarted")
    other = {
        "type": "record",
        "name": "RunStarted",
        "namespace": "esper.runs",
        "fields": [{"name": "a", "type": "int"}],
    }
    log.registry.subjects.registered(subject, schema_from_json(json.dumps(other)))
    log.close()
    began = time.monotonic()
    with pytest.raises(LogRefused, match=rf"{subject}.*esper schemas check --registry"):
        Loop(home, more={"log": log.url}).begin()
    assert time.monotonic() - began < 20


def test_of_two_commands_with_one_nonce_the_first_counts_and_the_other_is_told_of(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loop = Loop(home, epochs=3, more={"log": (home / LOG_URL).read_text()})
    loop.begin()
    first, other = command("dance", "1"), command("stop", "1")
    loop.go(until=18, on_batch=at(loop, 6, lambda: send(home, first, first, other)))
    assert [each.kind for each in contents(home, CommandRejected)] == ["dance"]
    loop.resume()
    loop.go()
    assert [each.kind for each in contents(home, CommandRejected)] == ["dance"]
    assert contents(home, CommandAccepted) == []
    said = [each.message for each in caplog.records if "nonce" in each.message]
    assert 1 <= len(said) <= 2  # by each trainer that has read it before its end
    assert "run run: the command at esper.signals/" in said[0]
    assert "was ignored: test used its nonce 1 for another one before; send it again with a nonce of its own" in said[0]


def test_the_history_on_kafka_is_that_on_the_embedded_log(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    embedded = Loop(tmp_path_factory.mktemp("embedded")).whole()
    assert Loop(home, more={"log": (home / LOG_URL).read_text()}).torn(7, 23) == embedded


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a port where nobody listens."""
    monkeypatch.setenv("ESPER_REGISTRY", "http://127.0.0.1:1")
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # and does not listen
        yield f"127.0.0.1:{held.getsockname()[1]}"


@pytest.mark.parametrize("words", [["train", "--task", "digits"], ["resume", "run"]], ids=["train", "resume"])
def test_a_broker_that_is_down_ends_the_command_within_ten_seconds(
    words: list[str], nobody: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    esper = runner(tmp_path, capsys)
    began = time.monotonic()
    result = esper(*words, "--log", f"kafka://{nobody}")
    assert time.monotonic() - began < 10
    assert result.code == 1
    (line,) = result.err.splitlines()
    assert line.startswith(f"esper: {nobody}: no Kafka broker answers there (")
    assert "check that one runs" in line


def test_a_broker_that_is_down_ends_a_program_within_ten_seconds(nobody: str, tmp_path: Path) -> None:
    loop = Loop(tmp_path, more={"log": f"kafka://{nobody}"})
    for attempt in (loop.begin, loop.resume):
        began = time.monotonic()
        with pytest.raises(LogError, match=rf"{nobody}: no Kafka broker answers"):
            attempt()
        assert time.monotonic() - began < 10


def test_what_is_logged_and_what_a_run_is_called_after_its_end_are_on_kafka_too(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = Loop(home, epochs=1)
    run = loop.begin(log=(home / LOG_URL).read_text(), params={"lr": 0.1})
    for _ in run.epochs(1):
        for batch in run.batches(loop.batches):
            run.step(batch)
            run.log({"mine": run.step_number})
    run.finish()
    esper = runner(home, capsys)
    place = ("--log", (home / LOG_URL).read_text())
    tagged = esper("tag", "run", "good", *place)
    assert (tagged.code, tagged.out) == (0, "run run: name -, tags good\n")
    assert esper("rename", "run", "better", *place).code == 0
    shown = esper("show", "run", "--json", *place).json
    assert (shown["status"], shown["name"], shown["tags"]) == ("completed", "better", ["good"])
    assert shown["metrics"]["mine"]["count"] == 8
    assert esper("verify", "run", *place).code == 0
