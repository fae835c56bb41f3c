"""What a sink does about records that cannot be read or are gone, logs that are others, and databases that are away."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver.exceptions import OperationalError

from esper.errors import AnalyticsError, DecodeError, LogError, UsageError
from esper.events.encoding.schemas import schema_of
from esper.events.runs import BoundaryReached
from esper.events.telemetry import StepsMeasured
from esper.events.topics import ANALYSED, DEADLETTER, RUNS, SIGNALS, TELEMETRY
from esper.log import open_log
from esper.log.deadletter import letters, sending_to
from esper.log.port import Entry, Log, Position, Record
from esper.log.records import event_of, telemetry_record
from esper.nissa.sink import process as following
from esper.nissa.sink import sink
from esper.nissa.sink.audit import audit, kept
from esper.nissa.sink.dead_letters import Letters
from esper.nissa.sink.losses import losses
from esper.nissa.sink.process import SinkProgress, follow
from esper.nissa.sink.sink import Sink
from esper.nissa.tables import migrate
from tests.support.runs import histories
from tests.support.runs.stories import START, Story
from tests.support.services.warehouse import Database


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return open_log(f"sqlite:///{tmp_path / 'log.db'}")


def told(log: Log, run_id: str = "run") -> Story:
    story = Story(log, run_id, "in")
    for step in (10, 20, 30):
        story.boundary(step)
        story.measure(1, "loss", {step + each: float(each) for each in range(10)})
    return story


def batch(log: Log, number: int, times: list[float], values: list[float] | None = None) -> Position:
    """A batch of ``run``'s losses, so many seconds after START."""
    rows = len(times)
    content = StepsMeasured(
        attempt=1,
        dropped=0,
        metrics=("loss",),
        sites=(),
        steps=tuple(range(rows)),
        epochs=(number,) * rows,
        times=tuple(int((START.timestamp() + each) * 1_000_000) for each in times),
        series_metric=(0,),
        series_site=(-1,),
        series_length=(rows,),
        at=tuple(range(rows)),
        value=tuple(values or (1.0,) * rows),
    )
    time = START + timedelta(seconds=times[-1])
    return log.signal(telemetry_record("run", content, epoch=1, number=number, time=time))


def measured(log: Log) -> StepsMeasured:
    """What the last batch says."""
    content = event_of(list(log.read(TELEMETRY))[-1]).content
    assert isinstance(content, StepsMeasured)
    return content


def disagreeing(database: Database, log: Log) -> list[Any]:
    return [each for each in audit(database.client, log) if not each.agree]


class Cut:
    """A log whose records before ``first`` are gone."""

    def __init__(self, log: Log, first: int) -> None:
        self._log, self._first = log, first

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        bounds = self._log.bounds(topic).items()
        return {each: (min(max(first, self._first), end), end) for each, (first, end) in bounds}

    def since(self, topic: str, offsets: Mapping[int, int]) -> Iterator[Entry]:
        return (entry for entry in self._log.since(topic, offsets) if entry.position.offset >= self._first)


# A database that is away


def test_what_the_client_raises_is_waited_out_and_nothing_is_lost(
    database: Database, log: Log, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told(log)
    monkeypatch.setattr(following, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(following, "INTERVAL", 0.01)
    kind, calls, stop, progress = type(database.client), 0, threading.Event(), SinkProgress()

    def failing(right: Any) -> Any:
        def call(self: Any, *args: Any, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls in (3, 9, 20, 21):
                raise OperationalError("Code: 210. the server went away")
            return right(self, *args, **more)

        return call

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "esper"):
        for name in ("insert", "insert_arrow", "query", "command"):
            patch.setattr(kind, name, failing(getattr(kind, name)))
        filling = Sink(database.client, log, database.url)
        thread = threading.Thread(target=follow, args=(filling, stop, progress))
        thread.start()
        deadline = time.monotonic() + 60
        while not progress.caught_up and time.monotonic() < deadline:
            time.sleep(0.01)
        stop.set()
        thread.join(30)
    assert progress.failures == 4
    assert f"the sink waits: {database.url}: Code: 210. the server went away" in caplog.messages
    assert disagreeing(database, log) == []


def test_no_more_is_read_than_is_to_be_written_at_once(
    database: Database, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many records wait, and however large they are."""
    story = told(log)
    for step in range(40, 140, 10):
        story.boundary(step)
    monkeypatch.setattr(sink, "MOST_BYTES", 2000)
    lengths = []
    right = sink._batch

    def noting(entries: Iterator[Entry], size: int) -> list[Entry]:
        found = right(entries, size)
        lengths.append(sum(len(entry.record.value) for entry in found))
        largest = max((len(entry.record.value) for entry in found), default=0)
        assert lengths[-1] <= 2000 + largest
        return found

    monkeypatch.setattr(sink, "_batch", noting)
    Sink(database.client, log).catch_up()
    assert len(lengths) > len(ANALYSED)
    assert disagreeing(database, log) == []


def test_what_says_what_is_done_is_inserted_at_once(
    database: Database, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a kill in between would leave out the records of the other insert that lie before it."""
    for topic in (SIGNALS, TELEMETRY):
        log.signal(Record(topic, "run", schema_of(StepsMeasured), b"\xff\xff"))
    for number in (1, 2):
        batch(log, number, [0.0])
        log.signal(telemetry_record("run", replace(measured(log), at=(7,)), epoch=1, number=5, time=START))
        log.signal(replace(next(log.read(TELEMETRY)).record, topic=SIGNALS, key=f"run{number}"))
        log.signal(replace(list(log.read(TELEMETRY))[1].record, topic=SIGNALS, headers=()))
    tables = []
    right = type(database.client).insert

    def noting(self: Any, table: str, *args: Any, **more: Any) -> Any:
        tables.append(table)
        return right(self, table, *args, **more)

    monkeypatch.setattr(type(database.client), "insert", noting)
    Sink(database.client, log).catch_up()
    assert tables.count("telemetry_batches") == 1
    assert tables.count("events") == 2  # signals, dead letters
    assert disagreeing(database, log) == []


def test_an_event_on_a_topic_where_it_does_not_belong_is_only_an_event(database: Database, log: Log) -> None:
    told(log)
    for topic in (SIGNALS, TELEMETRY):
        record = next(log.read(RUNS)).record
        log.signal(replace(record, topic=topic, epoch=None, sequence=None))
    Sink(database.client, log).catch_up()
    assert database.rows("SELECT count() FROM runs") == [(1,)]
    assert disagreeing(database, log) == []


# Dead letters


def test_a_record_that_cannot_be_read_is_one_dead_letter_however_often_it_is_read(database: Database, log: Log) -> None:
    told(log)
    schema = schema_of(StepsMeasured)
    places = [log.signal(Record(topic, "run", schema, b"\xff\xff")) for topic in (TELEMETRY, TELEMETRY, SIGNALS)]
    known = next(entry for entry in log.read(TELEMETRY) if entry.position == places[0])
    sending_to(log, "worker")(known, DecodeError("a worker was here before"))
    Sink(database.client, log).catch_up()
    Sink(database.client, log).rebuild()
    found = [letter.content for letter in letters(log)]
    assert {content.source for content in found} == set(map(str, places))
    assert len(list(log.read(DEADLETTER))) == 3
    assert disagreeing(database, log) == []


def test_a_batch_of_measurements_that_do_not_fit_is_a_dead_letter_too(database: Database, log: Log) -> None:
    batch(log, 1, [0.0])
    wrong = telemetry_record("run", replace(measured(log), at=(7,)), epoch=1, number=2, time=START)
    place = log.signal(wrong)
    Sink(database.client, log).catch_up()
    [letter] = letters(log)
    assert letter.content.source == str(place)
    assert "at names what is not there" in letter.content.error
    assert letter.content.value


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempt": -1},
        {"attempt": 1 << 40},
        {"dropped": -1},
        {"steps": (-1,)},
        {"epochs": (-1,)},
    ],
)
def test_a_batch_whose_numbers_no_column_holds_is_a_dead_letter(
    database: Database, log: Log, wrong: dict[str, Any]
) -> None:
    batch(log, 1, [0.0])
    log.signal(telemetry_record("run", replace(measured(log), **wrong), epoch=1, number=2, time=START))
    Sink(database.client, log).catch_up()
    [letter] = letters(log)
    assert next(iter(wrong)) in letter.content.error
    assert disagreeing(database, log) == []


@pytest.mark.parametrize("series", [0, 1])
def test_a_batch_without_measurements_is_none(database: Database, log: Log, series: int) -> None:
    batch(log, 1, [0.0])
    nothing: dict[str, Any] = {"series_metric": (0,) * series, "series_site": (-1,) * series}
    nothing |= {"series_length": (0,) * series, "at": (), "value": ()}
    log.signal(telemetry_record("run", replace(measured(log), **nothing), epoch=1, number=2, time=START))
    assert Sink(database.client, log).catch_up() == 2
    assert disagreeing(database, log) == []


def test_measurements_may_be_of_many_months(database: Database, log: Log) -> None:
    batch(log, 1, [-31.0 * 86400 * month for month in range(120)])
    assert Sink(database.client, log).catch_up() == 1
    assert disagreeing(database, log) == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"step": -1}, "step cannot be -1"),
        ({"epoch": 1 << 40}, "epoch cannot be"),
        ({"health": replace(histories.health((0,), (None,)), bottleneck=())}, "do not fit each other"),
        ({"health": histories.health((-1,), (None,))}, "site_index cannot be -1"),
        ({"sites": replace(histories.table("in"), kinds=())}, "do not fit each other"),
    ],
)
def test_an_event_that_does_not_fit_the_tables_is_a_dead_letter_and_an_event(
    database: Database, log: Log, wrong: dict[str, Any], said: str
) -> None:
    story = told(log)
    boundaries = [event_of(each).content for each in log.read(RUNS, key="run")]
    [*_, last] = (each for each in boundaries if isinstance(each, BoundaryReached))
    story.tell(40, replace(last, **wrong))
    story.boundary(50)
    Sink(database.client, log).catch_up()
    [letter] = letters(log)
    assert said in letter.content.error
    assert database.rows("SELECT count(), countIf(error != '') FROM events WHERE type = 'BoundaryReached'") == [(5, 1)]
    assert database.rows("SELECT count() FROM boundaries") == [(4,)]
    assert disagreeing(database, log) == []


def test_many_records_that_cannot_be_read_are_not_as_many_looks_at_the_dead_letters(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    right = log.since

    def since(topic: str, offsets: Mapping[int, int]) -> Iterator[Entry]:
        nonlocal looks
        looks += 1
        return right(topic, offsets)

    monkeypatch.setattr(log, "since", since)
    for _ in range(100):
        log.signal(Record(TELEMETRY, "run", schema_of(StepsMeasured), b"\xff\xff"))
    known = Letters(log)
    for entry in log.read(TELEMETRY):
        known.unreadable(entry, "it is none")
    assert looks <= 3
    assert len(letters(log)) == 100


def test_a_dead_letter_that_cannot_be_read_is_no_dead_letter(database: Database, log: Log) -> None:
    log.signal(Record(DEADLETTER, "x", schema_of(StepsMeasured), b"\xff\xff"))
    Sink(database.client, log).catch_up()
    assert len(list(log.read(DEADLETTER))) == 1


# A log of which something is gone


@pytest.mark.parametrize("left", [0, 1])
def test_a_beginning_that_is_gone_is_told_once_with_what_is_lost(
    database: Database, log: Log, caplog: pytest.LogCaptureFixture, left: int
) -> None:
    told(log)
    first = max(entry.position.offset for entry in log.read(RUNS)) + 1 - left
    cut: Any = Cut(log, first)
    for _ in range(2):
        Sink(database.client, cut).catch_up()
    of_runs = [each for each in losses(database.client) if each.topic == RUNS]
    assert [(each.records, each.reason) for each in of_runs] == [(first, "expired")]
    assert [message for message in caplog.messages if RUNS in message] == [str(of_runs[0])]
    assert disagreeing(database, cut) == []


def test_what_was_written_before_the_beginning_went_is_no_loss_and_stays(database: Database, log: Log) -> None:
    told(log)
    Sink(database.client, log).catch_up()
    before = database.rows("SELECT count() FROM events"), database.rows("SELECT count() FROM telemetry")
    cut: Any = Cut(log, max(entry.position.offset for entry in log.read(TELEMETRY)))
    Sink(database.client, cut).rebuild()
    assert losses(database.client) == []
    assert disagreeing(database, cut) == []
    assert (database.rows("SELECT count() FROM events"), database.rows("SELECT count() FROM telemetry")) == before
    rows, rollups = kept(database.client, cut)
    assert (
        rows == 4 + 1 + 1 + 1 + 1 + 3 + 2 + 20
    )  # events; runs, descriptions, sites, attempts, boundaries; batches, rows
    assert rollups == 0


def test_another_log_at_the_same_address_is_told_with_what_was_written_of_the_former(
    database: Database, log: Log, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told(log)
    Sink(database.client, log).catch_up()
    log.close()
    for each in tmp_path.glob("log.db*"):
        each.unlink()
    other = open_log(log.url)
    told(other, "other")
    for _ in range(2):
        Sink(database.client, other).catch_up()
    assert {each.topic: each.records for each in losses(database.client)} == {RUNS: 4, TELEMETRY: 3}
    assert all("another log at its address" in message for message in caplog.messages)
    assert len(caplog.messages) == 2
    assert disagreeing(database, other) == []
    Sink(database.client, other).rebuild()
    assert database.rows("SELECT DISTINCT run_id FROM boundaries ORDER BY run_id") == [("other",), ("run",)]
    assert kept(database.client, other)[0] > 0


def test_a_topic_that_is_made_anew_while_it_is_followed_is_begun_again(
    database: Database, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(log)
    monkeypatch.setattr(sink, "LOOK", 0.0)
    other: Any = Cut(log, 0)
    filling = Sink(database.client, other)
    filling.catch_up()
    other.topic_id = lambda topic: "another"
    with pytest.raises(LogError, match="made anew"):
        filling.advance()
    assert filling.catch_up() == 4 + 3
    assert {each.topic for each in losses(database.client)} == {RUNS, TELEMETRY}


def test_an_older_copy_of_the_log_is_told(database: Database, log: Log, caplog: pytest.LogCaptureFixture) -> None:
    told(log)
    Sink(database.client, log).catch_up()
    older: Any = Cut(log, 0)
    older.bounds = lambda topic: {each: (0, end - 1) for each, (_, end) in log.bounds(topic).items()}
    Sink(database.client, older).begin_all()
    assert all("an older copy" in message for message in caplog.messages)
    assert caplog.messages


# Going back


def test_going_back_writes_the_rest_of_a_partition_anew_as_often_as_one_likes(database: Database, log: Log) -> None:
    told(log)
    place = [entry.position for entry in log.read(TELEMETRY)][1]
    Sink(database.client, log).catch_up()
    for _ in range(2):
        filling = Sink(database.client, log)
        filling.go_back(place)
        assert filling.catch_up() == 2
        assert disagreeing(database, log) == []
    with pytest.raises(UsageError, match="no such partition"):
        Sink(database.client, log).go_back(replace(place, topic="esper.nothing"))
    with pytest.raises(UsageError, match="no such partition"):
        Sink(database.client, log).go_back(replace(place, partition=12))


@pytest.mark.parametrize("text", ["esper.runs/0:99999", "esper.telemetry/9:0", "esper.none/0:0", "esper.runs/99:0"])
def test_going_back_to_where_nothing_is_is_refused(database: Database, log: Log, text: str) -> None:
    told(log)
    with pytest.raises(UsageError, match=text):
        Sink(database.client, log).go_back(Position.parse(text))


def test_going_back_to_where_measurements_have_expired_is_refused(database: Database, log: Log) -> None:
    """Their rollups would count what is left of the bucket a second time."""
    batch(log, 1, [-100 * DAY, -100 * DAY + 1])
    place = batch(log, 2, [-100 * DAY + 300, -100 * DAY + 301])
    Sink(database.client, log).catch_up()
    expire(database)
    with pytest.raises(UsageError, match="have expired"):
        Sink(database.client, log).go_back(place)
    Sink(database.client, log).catch_up()
    assert database.rows("SELECT sum(n) FROM telemetry_epochs") == [(4,)]


def test_what_was_to_be_written_anew_is_even_if_the_one_who_was_asked_is_gone(database: Database, log: Log) -> None:
    told(log)
    count = Sink(database.client, log).catch_up()
    database.client.command("DELETE FROM boundaries WHERE 1")
    Sink(database.client, log).go_back()
    assert Sink(database.client, log).catch_up() == count
    assert Sink(database.client, log).catch_up() == 0
    assert disagreeing(database, log) == []


# Measurements that have expired


def expire(database: Database) -> None:
    for table in ("telemetry", "telemetry_minutes", "telemetry_epochs"):
        database.client.command(f"OPTIMIZE TABLE {table} FINAL")


DAY = 86_400.0


@pytest.mark.parametrize("rebuild", [False, True])
def test_rollups_of_measurements_that_have_expired_stay_and_are_no_disagreement(
    database: Database, log: Log, rebuild: bool
) -> None:
    """Of the second batch some have expired, and a year before that the clock was wrong."""
    batch(log, 1, [-120 * DAY, -119 * DAY])
    batch(log, 2, [-100 * DAY, -1.0, 0.0])
    batch(log, 3, [-30_000.0, -20_000 * DAY, 0.0])
    Sink(database.client, log).catch_up()
    before = database.rows("SELECT epoch, sum(n) FROM telemetry_epochs GROUP BY epoch ORDER BY epoch")
    assert before == [(1, 2), (2, 3), (3, 3)]
    expire(database)
    assert database.rows("SELECT count() FROM telemetry") == [(4,)]
    assert disagreeing(database, log) == []
    assert kept(database.client, log) == (0, 3 + 1)
    if rebuild:
        Sink(database.client, log).rebuild()
        assert database.rows("SELECT epoch, sum(n) FROM telemetry_epochs GROUP BY epoch ORDER BY epoch") == before
        assert disagreeing(database, log) == []
        expire(database)
        assert disagreeing(database, log) == []


def test_rows_that_are_missing_though_they_cannot_have_expired_are_found(database: Database, log: Log) -> None:
    batch(log, 1, [-120 * DAY, 0.0])
    batch(log, 2, [0.0, 1.0])
    Sink(database.client, log).catch_up()
    expire(database)
    database.client.command("DELETE FROM telemetry WHERE epoch = 2 AND step = 1")
    assert {each.table for each in disagreeing(database, log)} >= {"telemetry", "telemetry_epochs"}


def test_numbers_that_are_not_finite_and_sums_that_cancel_are_no_disagreement(database: Database, log: Log) -> None:
    nan, inf = float("nan"), float("inf")
    batch(log, 1, [0.0, 1.0], [nan, nan])
    batch(log, 2, [60.0, 61.0], [inf, -inf])
    batch(log, 3, [120.0, 121.0, 122.0, 123.0], [1e15, 1.1, -1e15, 0.3])
    Sink(database.client, log).catch_up()
    assert disagreeing(database, log) == []


# Tables that were made by another file


def test_the_remedy_for_tables_that_another_file_made_is_one(
    database: Database, log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(log)
    Sink(database.client, log).catch_up()
    columns = ["number", "statement", "name", "digest"]
    database.client.insert("migrations", [(1, 9999, "0001_events.sql", "00")], column_names=columns)
    with pytest.raises(AnalyticsError, match="esper analytics rebuild --drop"):
        migrate.migrate(database.client)
    migrate.drop(database.client)
    assert database.rows("SELECT name FROM system.tables WHERE database = currentDatabase()") == []
    migrate.migrate(database.client)
    Sink(database.client, log).catch_up()
    assert disagreeing(database, log) == []
