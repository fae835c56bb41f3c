"""Pairs of logs, and runs to copy from one to the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from esper.events.signals import CommandIssued
from esper.log import open_log
from esper.log.port import Log, Record
from esper.log.records import signal_record
from tests.support.logs.records import record_of_event
from tests.support.runs.histories import RUN, TIME, History


@pytest.fixture(params=["sqlite to sqlite", "sqlite to kafka", "kafka to sqlite"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """A log to copy from and one to copy to, both empty."""

    def url(kind: str, name: str) -> str:
        if kind == "kafka":
            made: str = request.getfixturevalue("kafka_log_url")()
            return made
        return f"sqlite:///{tmp_path}/{name}/log.db"

    source, destination = request.param.split(" to ")
    return url(source, "source"), url(destination, "destination")


@pytest.fixture
def logs(urls: tuple[str, str]) -> Iterator[tuple[Log, Log]]:
    source, destination = map(open_log, urls)
    yield source, destination
    source.close()
    destination.close()


def records(history: History) -> list[Record]:
    return [record_of_event(event) for event in history.events]


def write(log: Log, written: list[Record], run_id: str = RUN) -> None:
    """Append a run's events by the writers of their epochs."""
    for epoch in sorted({record.epoch or 0 for record in written}):
        writer = log.open_writer(run_id)
        while writer.epoch < epoch:
            writer = log.open_writer(run_id)
        writer.append([record for record in written if record.epoch == epoch])


def command(nonce: str) -> Record:
    content = CommandIssued(command="pause", seed=None, issuer="test", nonce=nonce, reason="")
    return signal_record(RUN, content, writer="test", time=TIME)


def held(log: Log, topic: str, key: str | None = None) -> list[tuple[Any, ...]]:
    """All that a record is, in order; the schema by its fingerprint."""
    return [
        (
            record.topic,
            record.key,
            record.schema.fingerprint,
            record.value,
            record.headers,
            record.epoch,
            record.sequence,
        )
        for record in (entry.record for entry in log.read(topic, key=key))
    ]
