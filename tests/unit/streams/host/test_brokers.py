"""What a worker says while brokers are away, and how long it waits for one answer of theirs."""

from __future__ import annotations

import logging
import time
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from esper.connections import KafkaSettings
from esper.errors import LogError
from esper.log.kafka.address import Address
from esper.log.kafka.clients import ClusterClients
from streams.host import brokers
from streams.views import generations

ADDRESS = Address.parse("kafka://127.0.0.1:1")  # nobody answers there


class Admin:
    """A client of brokers that answer, or do not."""

    def __init__(self) -> None:
        self.there = True

    def list_topics(self, topic: str, timeout: float) -> None:
        if not self.there:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))


def test_it_says_once_that_they_do_not_answer_and_once_that_they_do(caplog: pytest.LogCaptureFixture) -> None:
    admin = Admin()
    log: Any = SimpleNamespace(address=ADDRESS, cluster=SimpleNamespace(admin=admin))
    asked = brokers.Brokers(log, "one")
    for there in (True, False, False, False, True, True):
        admin.there = there
        assert asked.ask() is asked.answer is there
    assert [record.getMessage() for record in caplog.records if record.levelno > logging.DEBUG] == [
        "worker one: kafka 127.0.0.1:1 does not answer; waiting until it does",
        "worker one: kafka 127.0.0.1:1 answers again",
    ]


def test_what_the_clients_log_is_for_debugging(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in brokers.CLIENTS:
        monkeypatch.setattr(logging.getLogger(name), "handlers", [])
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    brokers.quieten()
    with caplog.at_level(logging.DEBUG, "esper.worker"):
        for name in ("aiokafka", "aiokafka.consumer.fetcher", "faust.app.base", "mode.threads", "streams.app"):
            logging.getLogger(name).error("it went %s", "wrong")
    told = [(record.name, record.levelno, record.getMessage()) for record in caplog.records]
    assert told[:2] == [
        ("esper.worker", logging.DEBUG, "aiokafka: it went wrong"),
        ("esper.worker", logging.DEBUG, "aiokafka.consumer.fetcher: it went wrong"),
    ]
    assert {(name, level) for name, level, _ in told} == {("esper.worker", logging.DEBUG)}
    assert len(told) == 5


def test_brokers_that_do_not_say_which_generation_is_live_are_an_error_of_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(generations, "ANSWER", 0.3)
    cluster = ClusterClients(ADDRESS, KafkaSettings())
    cluster._admin = AdminClient({"bootstrap.servers": ADDRESS.servers, "log_level": 0})
    log: Any = SimpleNamespace(address=ADDRESS, cluster=cluster)
    began = time.monotonic()
    with pytest.raises(LogError, match="asking for esper-views"):
        generations.live(log)
    assert time.monotonic() - began < 5
