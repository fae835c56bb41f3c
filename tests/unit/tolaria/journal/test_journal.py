"""The journal: what is submitted is committed in order; a log that does not answer ends the training."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from esper.errors import Fenced, LogError, SequenceGap
from esper.events.encoding.codec import decode
from esper.events.runs import AlertRaised
from esper.events.topics import RUNS
from esper.log import open_log
from esper.log.chain import digest, first_link
from esper.log.ordering import in_order
from esper.log.port import Log, Position, Record
from esper.settings import LogSettings
from esper.tamiyo.run.state import RunState
from esper.tolaria.journal.journal import Journal
from esper.tolaria.journal.reopening import Writers
from tests.support.runs.histories import ENVIRONMENT, RUN, History


class SlowLog:
    """A writer that waits for its gate, or fails as it is told."""

    run_id, epoch, sequence = RUN, 1, 0

    def __init__(self) -> None:
        self.open = threading.Event()
        self.error: Exception | None = None
        self.appended: list[Sequence[Record]] = []
        self.closed = False

    def append(self, records: Sequence[Record]) -> Position:
        if self.error is not None:
            raise self.error
        self.open.wait(10)
        self.appended.append(records)
        return Position(RUNS, 0, records[-1].sequence or 0)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def slow() -> SlowLog:
    return SlowLog()


class NoLog:
    url = "sqlite:///log.db"


WRITERS = Writers(cast(Log, NoLog()), RUN, ENVIRONMENT)


def journal(writer: SlowLog, buffer: int = 2, patience: float = 0.6) -> Journal:
    return Journal(WRITERS, writer, History().state, LogSettings(buffer=buffer, patience=patience))


def submit(journal: Journal, number: int = 0, commit: bool = False) -> None:
    transaction = journal.transaction()
    transaction.add(AlertRaised(step=number, kind="loss", detail="", value=None))
    (journal.commit if commit else journal.submit)(transaction)


def test_submitting_does_not_wait_for_the_log(slow: SlowLog) -> None:
    ahead = journal(slow, buffer=4)
    for number in range(4):
        submit(ahead, number)
    assert slow.appended == []
    assert ahead.state.alerts == 4
    slow.open.set()
    ahead.wait()
    sequences = [record.sequence for records in slow.appended for record in records]
    assert sequences == [3, 4, 5, 6]
    assert ahead.committed == ahead.state.sequence == 6
    ahead.close()
    assert slow.closed


def test_training_waits_for_a_slow_log_and_says_so_once(
    slow: SlowLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ahead = journal(slow, buffer=1, patience=20)
    threading.Timer(1.5, slow.open.set).start()
    for number in range(4):
        submit(ahead, number)
    submit(ahead, 4, commit=True)
    assert len(slow.appended) == 5
    assert [record.message for record in caplog.records if "waits for the log" in record.message] == [
        f"run {RUN}: training waits for the log sqlite:///log.db, up to 20 s"
    ]
    ahead.close()


def test_a_full_buffer_and_a_silent_log_end_the_training(slow: SlowLog) -> None:
    ahead = journal(slow, buffer=1)
    began = time.monotonic()
    with pytest.raises(LogError, match=r"did not answer for 0\.6 s.*resume"):
        list(map(partial(submit, ahead), range(5)))
    assert 0.5 < time.monotonic() - began < 5
    slow.open.set()
    ahead.close()


def test_a_commit_that_the_log_does_not_answer_ends_the_training(slow: SlowLog) -> None:
    ahead = journal(slow)
    with pytest.raises(LogError, match=r"did not answer"):
        submit(ahead, commit=True)
    slow.open.set()
    ahead.close()


def test_an_error_of_the_log_is_tried_again_until_patience_ends(slow: SlowLog) -> None:
    slow.error = LogError("the disk is full; free some space")
    ahead = journal(slow, patience=20)
    submit(ahead)
    time.sleep(0.2)
    slow.error = None
    slow.open.set()
    ahead.wait()
    assert len(slow.appended) == 1
    ahead.close()
    slow.error = LogError("the disk is full; free some space")
    impatient = journal(slow, patience=0.3)
    submit(impatient)
    with pytest.raises(LogError, match=r"disk is full"):
        impatient.wait()
    with pytest.raises(LogError, match=r"disk is full"):
        submit(impatient)
    impatient.close()


@pytest.mark.parametrize("error", [Fenced(RUN, 2), SequenceGap("a gap")])
def test_a_rival_ends_the_training_at_once(slow: SlowLog, error: Exception) -> None:
    slow.error = error
    ahead = journal(slow, patience=60)
    submit(ahead)
    with pytest.raises(type(error)):
        ahead.wait()
    with pytest.raises(type(error)):
        ahead.check()
    assert ahead.committed < ahead.state.sequence
    ahead.close()


def test_what_follows_a_commit_happens_only_after_it(slow: SlowLog) -> None:
    done: list[int] = []
    ahead = journal(slow, patience=20)
    transaction = ahead.transaction()
    transaction.add(AlertRaised(step=1, kind="loss", detail="", value=None))
    transaction.then = lambda: done.append(len(slow.appended))
    ahead.submit(transaction)
    assert done == []
    slow.open.set()
    ahead.wait()
    assert done == [1]
    ahead.close()


def test_what_follows_a_commit_that_failed_never_happens(slow: SlowLog) -> None:
    done: list[int] = []
    slow.error = Fenced(RUN, 2)
    ahead = journal(slow)
    transaction = ahead.transaction()
    transaction.add(AlertRaised(step=1, kind="loss", detail="", value=None))
    transaction.then = lambda: done.append(1)
    with pytest.raises(Fenced):
        ahead.commit(transaction)
    ahead.close()
    assert done == []


def test_the_folded_run_is_told_with_the_bytes_of_its_last_event_until_that_moves(slow: SlowLog) -> None:
    slow.open.set()
    ahead = journal(slow)
    assert ahead.folded()() is None
    submit(ahead, 1)
    asked, state = ahead.folded(), ahead.state
    submit(ahead, 2, commit=True)
    found = asked()
    assert found is not None
    assert found.state is state
    assert found.link == digest(slow.appended[0][-1]).hex()
    ahead._moved = 1, 2  # what a writer that was opened again leaves behind
    assert ahead.folded()() is None
    ahead.close()


def test_a_folded_run_whose_last_event_is_never_committed_is_not_told(slow: SlowLog) -> None:
    ahead = journal(slow)
    submit(ahead, 1)
    asked = ahead.folded()
    threading.Thread(target=ahead.close).start()
    with pytest.raises(LogError):
        asked()


def test_each_event_has_the_digest_of_the_one_before_it_in_its_body_and_its_headers(slow: SlowLog) -> None:
    slow.open.set()
    ahead = journal(slow)
    for number in range(3):
        submit(ahead, number, commit=True)
    written = [record for records in slow.appended for record in records]
    links = [decode(record.schema, record.value).link for record in written]
    assert links == [first_link(RUN), digest(written[0]), digest(written[1])]
    assert [dict(record.headers)["link"] for record in written] == [link.hex().encode() for link in links if link]
    assert [cast(AlertRaised, decode(record.schema, record.value).content).step for record in written] == [0, 1, 2]
    ahead.close()


def test_transactions_reach_a_real_log_in_order(tmp_path: Path) -> None:
    log: Log = open_log(f"sqlite:///{tmp_path}/log.db")
    writers = Writers(log, RUN, ENVIRONMENT)
    ahead = Journal(writers, writers.open(), RunState(RUN), LogSettings())
    first = ahead.transaction()
    first.add(History().events[0].content)  # type: ignore[arg-type]
    ahead.submit(first)
    for number in range(5):
        submit(ahead, number)
    ahead.close()
    found = [event for _, event in in_order(log.read(RUNS, key=RUN))]
    assert [event.envelope.sequence for event in found] == [1, 2, 3, 4, 5, 6]
    log.close()
