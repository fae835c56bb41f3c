"""A lost writer: what was committed after all is not written again, what is missing is, and a rival ends it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from esper.errors import Fenced, LogError, LogRefused, RecordTooLarge, SequenceConflict, SequenceGap
from esper.events import Event
from esper.events.assets import KernelRequested
from esper.events.encoding.codec import decode
from esper.events.ids import run_event_id, signal_id
from esper.events.runs import AlertRaised, CheckpointCommitted, RunCompleted, RunPaused, RunResumed
from esper.events.topics import RUNS
from esper.log.chain import Mark
from esper.log.ordering import LEAP, Order, in_order
from esper.log.port import Record
from esper.log.records import asset_record, run_record
from esper.log.sqlite.log import SqliteLog
from esper.settings import LogSettings
from esper.tamiyo.run.fold import fold
from esper.tamiyo.run.state import RunState
from esper.tolaria.journal import journal as journal_module
from esper.tolaria.journal.journal import Journal
from esper.tolaria.journal.reopening import Writers, follow_on, is_on_the_log, renumbered
from tests.support.logs.faulty import Fault, FaultyLog
from tests.support.logs.records import behind
from tests.support.runs.histories import ENVIRONMENT, RUN, History

NOW = datetime(2026, 11, 22, tzinfo=UTC)
COMMAND = signal_id(RUN, "test", "1")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "FIRST_PAUSE", 0.001)


def alert(number: int) -> AlertRaised:
    return AlertRaised(step=number, kind="loss", detail="", value=None)


def record(sequence: int, epoch: int = 1, step: int = 0, causes: tuple[Any, ...] = ()) -> Record:
    content = alert(step or sequence)
    return run_record(RUN, content, epoch=epoch, sequence=sequence, writer="test", time=NOW, causes=causes)


def asset() -> Record:
    content = KernelRequested(blueprint="mlp@111111111111", kind="Linear", dims=(8, 8), seed=1)
    return asset_record(content, writer="test", time=NOW)


# What was in doubt


def test_a_transaction_of_which_the_log_has_every_event_was_committed() -> None:
    sent = [asset(), record(3), record(4)]
    assert is_on_the_log(sent, [record(3), record(4)])
    assert is_on_the_log(sent, [record(3), record(4), record(5)])


def test_a_transaction_of_which_the_log_has_nothing_was_not_committed() -> None:
    assert not is_on_the_log([asset(), record(3), record(4)], [])
    assert not is_on_the_log([record(3)], [record(2)])


@pytest.mark.parametrize(
    "found",
    [[record(3)], [record(3), record(4, step=9)], [record(3), record(4, epoch=2)]],
    ids=["half", "other", "epoch"],
)
def test_half_of_a_transaction_or_another_in_its_place_is_a_conflict(found: list[Record]) -> None:
    with pytest.raises(SequenceConflict, match=r"event 4 on the log is not the one that was sent"):
        is_on_the_log([record(3), record(4)], found)


def test_renumbered_events_have_their_contents_times_and_causes() -> None:
    first = run_event_id(RUN, 1, 3)
    records = [record(3, causes=(COMMAND,)), asset(), record(4, causes=(first, COMMAND))]
    moved = renumbered(records, 2, 7)
    assert [(each.epoch, each.sequence) for each in moved if each.topic == RUNS] == [(2, 8), (2, 9)]
    assert moved[1] is records[1]
    new_first = run_event_id(RUN, 2, 8)
    assert decoded(moved[0]).envelope.id == new_first
    assert decoded(moved[0]).envelope.causes == (COMMAND,)
    assert decoded(moved[2]).envelope.causes == (new_first, COMMAND)
    assert dict(moved[2].headers)["causation_id"] == str(new_first).encode()
    for before, after in zip(records, moved, strict=True):
        assert decoded(after).content == decoded(before).content
        assert decoded(after).envelope.time == decoded(before).envelope.time
        assert decoded(after).envelope.writer == "test"


def test_events_that_have_their_numbers_already_are_left_alone() -> None:
    records = [record(3), asset(), record(4)]
    assert all(after is before for before, after in zip(records, renumbered(records, 1, 2), strict=True))


def decoded(each: Record) -> Event:
    return decode(each.schema, each.value)


# The journal over a log that loses its writers


class Life:
    """A journal over a faulty log, and what must be on the log in the end."""

    def __init__(self, folder: Path, *faults: Fault, opening: tuple[Fault, ...] = (), patience: float = 20.0) -> None:
        self.log = FaultyLog(folder)
        self.writers = Writers(self.log, RUN, ENVIRONMENT)
        settings = LogSettings(patience=patience)
        self.journal = Journal(self.writers, self.writers.open(), RunState(RUN), settings)
        self.contents: list[Any] = []
        self.submitted = 0
        self.followed: list[int] = []
        self.log.faults, self.log.opening = iter(faults), iter(opening)

    def submit(self, *contents: Any, wait: bool = True) -> None:
        transaction = self.journal.transaction()
        for content in contents:
            transaction.add(content, causes=(COMMAND,))
        number = self.submitted = self.submitted + 1
        transaction.then = lambda: self.followed.append(number)
        self.contents += contents
        (self.journal.commit if wait else self.journal.submit)(transaction)

    def begin(self) -> None:
        history = History()
        self.submit(*(event.content for event in history.events))

    def events(self) -> list[Event]:
        return [event for _, event in in_order(self.log.read(RUNS, key=RUN))]

    def check(self) -> None:
        """The log holds what was submitted, once and in order; each later writer began with RunResumed."""
        self.journal.wait()
        events = self.events()
        assert [each.content for each in events if not isinstance(each.content, RunResumed)] == self.contents
        first = [each for before, each in pairwise(events) if before.envelope.epoch != each.envelope.epoch]
        resumed = [each for each in events if isinstance(each.content, RunResumed)]
        assert first == resumed
        assert all(each.envelope.causes == (COMMAND,) for each in events if each not in resumed)
        assert fold(RunState(RUN), events) == self.journal.state
        assert self.journal.committed == self.journal.state.sequence
        assert self.followed == [*range(1, self.submitted + 1)]
        raw = [dict(entry.record.headers)["ce_id"] for entry in self.log.read(RUNS, key=RUN)]
        assert len(raw) == len(set(raw)) == len(events)
        assert [each.envelope.id for each in events] == [
            run_event_id(RUN, each.envelope.epoch or 0, each.envelope.sequence or 0) for each in events
        ]


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Callable[..., Life]]:
    made: list[Life] = []

    def make(*faults: Fault, **more: Any) -> Life:
        made.append(Life(tmp_path, *faults, **more))
        return made[-1]

    yield make
    for each in made:
        each.journal.close()
        each.log.close()


def test_a_transaction_that_was_undone_is_written_again_behind_a_resume(life: Callable[..., Life]) -> None:
    run = life(None, None, "lost before")
    run.begin()
    run.submit(alert(1))
    run.submit(alert(2), alert(3))
    run.submit(alert(4))
    run.check()
    names = [type(each.content).__name__ for each in run.events()]
    assert names == ["RunStarted", "CheckpointCommitted", "AlertRaised", "RunResumed", *["AlertRaised"] * 3]
    resumed = next(each.content for each in run.events() if isinstance(each.content, RunResumed))
    assert resumed.checkpoint == 0
    assert not resumed.inexact
    assert "gave the writer up" in resumed.notes[0]
    assert run.log.opened == 2


def test_a_transaction_that_was_committed_after_all_is_not_written_again(life: Callable[..., Life]) -> None:
    run = life(None, "lost after")
    run.begin()
    run.submit(alert(1), alert(2))
    assert [type(each.content) for each in run.events()][2:] == [AlertRaised, AlertRaised]
    run.submit(alert(3))
    run.check()
    assert [type(each.content) for each in run.events()][2:] == [AlertRaised, AlertRaised, RunResumed, AlertRaised]


@pytest.mark.parametrize("fault", ["lost before", "lost after"])
def test_a_run_whose_first_transaction_is_in_doubt_begins_with_its_start(
    fault: Fault, life: Callable[..., Life]
) -> None:
    run = life(fault)
    run.begin()
    run.submit(alert(1))
    run.check()
    assert sum(isinstance(each.content, RunResumed) for each in run.events()) == (fault == "lost after")


def test_the_resume_names_the_newest_committed_checkpoint(life: Callable[..., Life]) -> None:
    run = life(None, "lost after", "lost before")
    run.begin()
    for step in (40, 80):
        run.submit(CheckpointCommitted(step=step, manifest=str(step), sequence=1, reason="due", size=1))
    run.submit(alert(81))
    run.check()
    assert [each.content.checkpoint for each in run.events() if isinstance(each.content, RunResumed)] == [40]


@pytest.mark.parametrize("fault", ["lost before", "lost after"])
@pytest.mark.parametrize(
    "end",
    [
        RunCompleted(step=9, final_loss=1.0, test={}, parameters_digest="ff", seeds={}),
        RunPaused(step=9, reason="Ctrl-C"),
    ],
    ids=["completed", "paused"],
)
def test_the_end_of_a_run_stays_its_end(end: Any, fault: Fault, life: Callable[..., Life]) -> None:
    run = life(None, fault)
    run.begin()
    run.submit(end)
    run.check()
    assert run.events()[-1].content == end


def test_what_is_queued_meanwhile_follows_in_order(life: Callable[..., Life]) -> None:
    run = life(None, "lost before", "away", "lost after", "lost before", opening=(None, "away", "away", None))
    run.begin()
    for number in range(20):
        run.submit(alert(number), alert(100 + number), wait=False)
        time.sleep(0.0005)
    run.check()


def test_a_writer_lost_again_and_again_is_replaced_again_and_again(life: Callable[..., Life]) -> None:
    run = life(None, *["lost before"] * 5)
    run.begin()
    run.submit(alert(1))
    run.submit(alert(2))
    run.check()
    assert run.events()[-1].envelope.epoch == 6


def test_what_a_program_says_of_a_lost_writer(life: Callable[..., Life], caplog: pytest.LogCaptureFixture) -> None:
    run = life(None, "lost before")
    run.begin()
    run.submit(alert(1))
    said = [each.message for each in caplog.records if each.levelno >= logging.WARNING]
    assert said == [f"run {RUN}: the log gave the writer up while it was away; it goes on with epoch 2"]


# A rival


def rival(run: Life, *contents: Any) -> int:
    """Another trainer takes the run over, and may write; returns its epoch."""
    log = SqliteLog(run.log.url, run.log.database.path)
    writer = log.open_writer(RUN)
    state = fold(RunState(RUN), run.events())
    fields = {"epoch": writer.epoch, "writer": "rival", "time": NOW}
    records = [run_record(RUN, each, sequence=state.sequence + n, **fields) for n, each in enumerate(contents, 1)]
    writer.append(behind(log, RUN, records))
    log.close()
    return writer.epoch


RESUMED = RunResumed(checkpoint=0, inexact=False, environment=ENVIRONMENT, notes=())


@pytest.mark.parametrize("contents", [[RESUMED], [RESUMED, alert(1)]])
def test_a_rival_that_wrote_ends_it_and_is_not_fenced(contents: list[Any], life: Callable[..., Life]) -> None:
    run = life(None, "lost before")
    run.begin()
    took_over = []
    run.log.before_open = lambda: pytest.fail("the rival is fenced")
    real = run.writers._read

    def read(tail: Any) -> Any:
        if not took_over:
            took_over.append(rival(run, *contents))
        return real(tail)

    run.writers._read = read  # type: ignore[method-assign]
    ids = None
    with pytest.raises(Fenced, match=r"took over with epoch 2.*writes nothing more"):
        run.submit(alert(1))
    ids = [each.envelope.id for each in run.events()]
    with pytest.raises(Fenced):
        run.submit(alert(2))
    assert [each.envelope.id for each in run.events()] == ids
    assert run.followed == [1]


def test_a_rival_that_comes_while_the_writer_is_opened_ends_it_too(life: Callable[..., Life]) -> None:
    run = life(None, "lost before")
    run.begin()
    run.log.before_open = lambda: rival(run, RESUMED) and None
    with pytest.raises(Fenced, match="epoch 2"):
        run.submit(alert(1))
    assert isinstance(run.events()[-1].content, RunResumed)


def test_another_program_that_begins_the_same_run_first_ends_this_one(life: Callable[..., Life]) -> None:
    run = life("lost before")
    run.log.before_open = lambda: rival(run, *(event.content for event in History().events)) and None
    with pytest.raises(Fenced, match="epoch 2"):
        run.begin()


# Errors for which there is no other try


def test_a_log_that_stays_away_ends_it_when_patience_is_over(life: Callable[..., Life]) -> None:
    run = life(None, "lost before", opening=("away",) * 10**5, patience=0.3)
    run.begin()
    began = time.monotonic()
    with pytest.raises(LogError, match=r"log sqlite:///.* did not answer for 0\.3 s.*resume.*broker is away"):
        run.submit(alert(1))
    assert time.monotonic() - began < 5


def test_a_journal_that_was_closed_while_it_opened_a_writer_writes_nothing_more(
    life: Callable[..., Life], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "CLOSING", 0.1)
    asked, answer = threading.Event(), threading.Event()
    run = life(None, "lost before")
    run.begin()
    before = len(run.events())
    run.log.before_open = lambda: asked.set() or (answer.wait(10) and None)
    run.submit(alert(1), wait=False)
    assert asked.wait(10)
    run.journal.close()
    answer.set()  # the log is back, and perhaps the run is resumed in this process
    run.journal._thread.join(10)
    assert len(run.events()) == before


@pytest.mark.parametrize(
    "error", [RecordTooLarge("too large"), LogRefused("no right"), SequenceGap("a gap"), SequenceConflict("two")]
)
def test_an_error_that_stays_ends_it_at_once(error: LogError, life: Callable[..., Life]) -> None:
    run = life()
    run.begin()

    def append(records: Any) -> Any:
        raise error

    run.journal._writer.append = append  # type: ignore[method-assign]
    with pytest.raises(type(error)):
        run.submit(alert(1))


def test_a_writer_goes_on_where_its_run_ends_if_the_log_counts_no_other_events(tmp_path: Path) -> None:
    log = SqliteLog("sqlite:///log.db", tmp_path / "log.db")
    writer = log.open_writer(RUN)
    order = Order(after=Mark(epoch=1, sequence=5))
    with pytest.raises(SequenceConflict, match=r"written 0 events by the log's count, but 5 are there: "):
        follow_on(log, writer, order)
    writer.sequence = 5
    follow_on(log, writer, order)
    writer.sequence = 7
    order.claimed = 7  # by records that readers passed over, which no writer of this log has counted
    with pytest.raises(SequenceGap, match=r"event 6 is missing, though the log counts 7"):
        follow_on(log, writer, order)
    order.left = 7  # by records that were taken out
    follow_on(log, writer, order)
    assert writer.sequence == 5
    writer.epoch = 2 + LEAP
    with pytest.raises(LogRefused, match=rf"counts {2 + LEAP} writers, but its last event is of epoch 1"):
        follow_on(log, writer, order)
    log.close()
