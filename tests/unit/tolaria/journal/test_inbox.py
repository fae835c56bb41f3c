"""The inbox: a log that is away for a while loses no command; what is sent twice is one command."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from esper.errors import LogError
from esper.events.signals import CommandIssued
from esper.events.topics import SIGNALS
from esper.log.port import Entry, Position
from esper.log.records import signal_record
from esper.log.sqlite.log import SqliteLog, insert
from esper.tolaria.journal import inbox as inbox_module
from esper.tolaria.journal.inbox import Inbox, PendingCommand

NOW = datetime(2026, 11, 22, tzinfo=UTC)


class FlakyLog(SqliteLog):
    """Its ``follow`` fails ``failures`` times, each time after one entry more."""

    failures = 0

    def follow(
        self, topic: str, key: str | None = None, after: Position | None = None, *, stop: threading.Event
    ) -> Iterator[Entry]:
        for count, entry in enumerate(super().follow(topic, key, after, stop=stop)):
            if self.failures and count:
                self.failures -= 1
                raise LogError("the broker is away")
            yield entry

    def send_unchecked(self, nonce: str, reason: str, later: int = 0) -> None:
        """As a log may hold it whose ``signal`` cannot know what was sent before."""
        content = CommandIssued(command="pause", seed=None, issuer="test", nonce=nonce, reason=reason)
        with self.database.transaction() as connection:
            time = NOW + timedelta(seconds=later)
            insert(connection, [signal_record("run", content, writer="test", time=time)])


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyLog]:
    monkeypatch.setattr(inbox_module, "FIRST_PAUSE", 0.001)
    found = FlakyLog(f"sqlite:///{tmp_path}/log.db", tmp_path / "log.db")
    yield found
    found.close()


@pytest.fixture
def taken(log: FlakyLog) -> Iterator[Callable[[int], list[PendingCommand]]]:
    inboxes: list[Inbox] = []

    def take(count: int) -> list[PendingCommand]:
        inboxes.append(Inbox(log, "run"))
        found: list[PendingCommand] = []
        deadline = time.monotonic() + 10
        while len(found) < count and time.monotonic() < deadline:
            found += inboxes[-1].take()
            time.sleep(0.005)
        time.sleep(0.15)  # nothing more may come
        return found + inboxes[-1].take()

    yield take
    for each in inboxes:
        each.close()


def test_a_log_that_fails_again_and_again_loses_no_command_and_repeats_none(
    log: FlakyLog, taken: Callable[[int], list[PendingCommand]], caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(6):
        log.send_unchecked(str(number), "")
    log.failures = 4
    assert [each.content.nonce for each in taken(6)] == list("012345")
    assert log.failures == 0
    said = [each.message for each in caplog.records if each.levelno == logging.WARNING]
    assert said[0] == "run run: no command can arrive now, the log is asked again: the broker is away"


def test_a_log_that_stays_away_is_told_of_once(
    log: FlakyLog, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Semaphore(0)

    def follow(*args: object, **more: object) -> Iterator[Entry]:
        asked.release()
        raise LogError("the broker is away")

    monkeypatch.setattr(log, "follow", follow)
    inbox = Inbox(log, "run")
    for _ in range(5):
        assert asked.acquire(timeout=10)
    inbox.close()
    assert len([each for each in caplog.records if each.levelno == logging.WARNING]) == 1


def test_one_command_sent_twice_is_one_command(
    log: FlakyLog, taken: Callable[[int], list[PendingCommand]], caplog: pytest.LogCaptureFixture
) -> None:
    log.send_unchecked("1", "twice")
    log.send_unchecked("1", "twice", later=60)
    assert len(taken(2 - 1)) == 1
    assert not caplog.records


def test_two_commands_with_one_nonce_are_a_conflict_that_is_told(
    log: FlakyLog, taken: Callable[[int], list[PendingCommand]], caplog: pytest.LogCaptureFixture
) -> None:
    log.send_unchecked("1", "this")
    log.send_unchecked("1", "that")
    assert [each.content.reason for each in taken(1)] == ["this"]
    (said,) = [each.message for each in caplog.records]
    second = [entry.position for entry in log.read(SIGNALS, key="run")][1]
    assert said == (
        f"run run: the command at {second} was ignored: test used its nonce 1 for another one before; send it again "
        "with a nonce of its own"
    )
