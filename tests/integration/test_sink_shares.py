"""Several sinks on one database: each fills a part, and whatever happens to one, every record is there once.

The database is the embedded engine behind HTTP, since several processes need it.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions
from confluent_kafka.admin import AdminClient

from esper.errors import AnalyticsError, LogError
from esper.events.topics import ANALYSED, PARTITIONS, RUNS, TELEMETRY
from esper.log import open_log
from esper.log.kafka.log import KafkaLog
from esper.log.port import Log, ShareChange
from esper.nissa.clickhouse.warehouse import connect
from esper.nissa.sink.audit import audit
from esper.nissa.sink.shares import Shared, group_of, guarded, whole
from esper.nissa.sink.sink import Sink
from esper.nissa.tables.migrate import migrate
from tests.support.command import spawn, wait_until
from tests.support.runs.stories import Story
from tests.support.services.adapters import ROOT
from tests.support.services.warehouse import Database

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

SOON = 30.0
"""Seconds in which others take over what a sink had that is gone."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty database, which commands use."""
    command = [sys.executable, "-m", "tests.support.services.clickhouse_http", "0", str(tmp_path / "clickhouse")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = f"clickhouse://127.0.0.1:{int(process.stdout.readline())}/shared"
        monkeypatch.setenv("ESPER_ANALYTICS", url)
        migrate(connect(url))
        try:
            yield url
        finally:
            process.kill()


class Telling:
    """Runs in many partitions that go on and on."""

    def __init__(self, log: Log, runs: int = 16) -> None:
        self.log = log
        self._stories = [Story(log, f"run-{number}", "in") for number in range(runs)]
        self._step = 0

    def more(self, rounds: int = 1) -> None:
        for _ in range(rounds):
            self._step += 1
            for story in self._stories:
                story.boundary(self._step)
                story.measure(1, "loss", {self._step: 1.0, self._step + 1: 2.0})

    def records(self) -> int:
        return sum(1 for topic in ANALYSED for _ in self.log.since(topic, {}))


class Watched:
    """What a database of sinks holds, and who fills it."""

    def __init__(self, url: str, log: KafkaLog) -> None:
        self.client, self.log = connect(url), log
        self.group = log.address.named(group_of(self.client))
        self._admin = AdminClient({"bootstrap.servers": log.address.servers})

    def records(self) -> int:
        query = (
            "SELECT (SELECT uniqExact(topic, partition, offset) FROM events) + "
            "(SELECT uniqExact(partition, offset) FROM telemetry_batches)"
        )
        return int(self.client.query(query).result_rows[0][0])

    def shares(self) -> list[int]:
        """How many partitions each member of the sinks' group has."""
        described = self._admin.describe_consumer_groups([self.group])[self.group].result(20)
        return sorted(len(member.assignment.topic_partitions) for member in described.members)

    def has_all(self, telling: Telling, seconds: float = SOON) -> None:
        wanted = telling.records()
        wait_until(lambda: self.records() >= wanted, f"{wanted} records", seconds)

    def shown(self) -> dict[int, int]:
        """What the group's offsets say is done of the measurements, by partition."""
        asked = self._admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(self.group)])
        topic = self.log.address.named(TELEMETRY)
        found = asked[self.group].result(20).topic_partitions
        return {each.partition: each.offset for each in found if each.topic == topic and each.offset > 0}

    def done(self) -> dict[int, int]:
        query = "SELECT partition, max(offset) + 1 FROM telemetry_batches GROUP BY partition"
        return dict(self.client.query(query).result_rows)

    def disagreeing(self) -> list[str]:
        return disagreeing(self.client, self.log)


def disagreeing(client: Client, log: Log) -> list[str]:
    return [f"{each}" for each in audit(client, log) if not each.agree]


@pytest.fixture
def kafka(kafka_log_url: Callable[[], str]) -> Iterator[KafkaLog]:
    log = open_log(kafka_log_url())
    assert isinstance(log, KafkaLog)
    with closing(log):
        yield log


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP])
def test_what_a_sink_filled_that_is_gone_another_fills_within_half_a_minute(
    how: signal.Signals, server: str, kafka: KafkaLog, tmp_path: Path
) -> None:
    telling, watched = Telling(kafka), Watched(server, kafka)
    with ExitStack() as stack:
        one = spawn(tmp_path / "one", "sink", "--log", kafka.url, "--json")
        stack.callback(one.kill)
        watched.has_all(telling)
        other = spawn(tmp_path / "other", "sink", "--log", kafka.url, "--json")
        stack.callback(other.kill)
        half = len(ANALYSED) * PARTITIONS // 2
        wait_until(lambda: watched.shares() == [half, half], "two halves")
        telling.more(6)
        one.send_signal(how)  # it has something to do
        began = time.monotonic()
        telling.more()
        watched.has_all(telling, SOON - (time.monotonic() - began))
        assert watched.shares() == [2 * half]
        wait_until(lambda: watched.shown() == watched.done(), "the group's offsets")
        if how is signal.SIGSTOP:
            one.send_signal(signal.SIGCONT)
            telling.more(3)
            watched.has_all(telling)
            wait_until(lambda: watched.shares() == [half, half], "two halves again")
        assert watched.disagreeing() == []
        for each in (one, other):
            each.send_signal(signal.SIGTERM)
            out, err = each.communicate(timeout=30)
            assert each.returncode == (-how if each is one and how is signal.SIGKILL else 0), err
            if each.returncode == 0:
                assert json.loads(out)["records"] > 0
    assert watched.disagreeing() == []
    assert watched.shares() == []


def test_two_databases_of_a_server_have_two_groups(server: str) -> None:
    groups = {group_of(connect(url)) for url in (server, server.replace("127.0.0.1", "localhost"), f"{server}2")}
    assert len(groups) == 2


# With a share that does as it is told


class ToldShare:
    """Everything at first; then what is put into ``changes``. ``asked`` is called whenever it is asked if it is sure,
    with how often it was before."""

    def __init__(self, asked: Callable[[int], bool] = lambda _: True) -> None:
        self.changes = [ShareChange({topic: frozenset(range(PARTITIONS)) for topic in ANALYSED}, {})]
        self._asked, self.times = asked, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def poll(self, wait: float = 0.0, done: object = None) -> ShareChange:
        return self.changes.pop(0) if self.changes else ShareChange({}, {})

    def sure(self) -> bool:
        self.times += 1
        return self._asked(self.times - 1)


def filled(client: Client, log: Log, share: ToldShare) -> None:
    """As a sink does it: one look at the log."""
    sink = Sink(guarded(client, share), log)
    shared = Shared(sink, share)
    if shared.begin():
        sink.advance(still=shared.still)


@pytest.mark.slow
def test_a_sink_that_lost_all_at_any_place_writes_and_deletes_nothing_more(database: Database, tmp_path: Path) -> None:
    """Whichever change it was about to make while others took over and went on."""
    for place in range(0, 1000, 2):
        log = open_log(f"sqlite:///{tmp_path / f'{place}.db'}")
        telling = Telling(log, runs=2)
        filled(database.client, log, ToldShare())
        telling.more(2)
        database.client.command(
            "DELETE FROM telemetry_batches WHERE offset = (SELECT max(offset) FROM telemetry_batches)"
        )

        def others(times: int, place: int = place, log: Log = log, telling: Telling = telling) -> bool:
            if times == place:
                telling.more()
                filled(database.client, log, ToldShare())
            return times < place

        share, gone = ToldShare(others), False
        try:
            filled(database.client, log, share)
        except LogError:
            gone = True
        if share.times <= place:  # it got through before
            break
        filled(database.client, log, ToldShare())
        assert disagreeing(database.client, log) == [], (place, gone)
    assert 20 < place < 1000


def test_what_a_sink_lost_between_two_batches_it_does_not_write(database: Database, tmp_path: Path) -> None:
    log, share = open_log(f"sqlite:///{tmp_path / 'log.db'}"), ToldShare()
    Telling(log)
    sink = Sink(guarded(database.client, share), log)
    shared = Shared(sink, share)
    assert shared.begin()
    share.changes.append(ShareChange({}, {RUNS: frozenset(range(6))}))
    assert not shared.still()
    assert sink.advance(still=shared.still) == 0
    assert shared.begin()
    assert sink.advance(still=shared.still) > 0
    assert shared.still()
    held = database.rows("SELECT DISTINCT partition FROM events WHERE topic = {topic:String}", topic=RUNS)
    assert {partition for (partition,) in held} <= set(range(6, PARTITIONS))
    assert held
    share.changes.append(ShareChange({RUNS: frozenset(range(6))}, {}))
    assert shared.begin()
    sink.advance(still=shared.still)
    assert disagreeing(database.client, log) == []


def test_who_needs_the_whole_database_waits_for_its_sinks_and_says_so(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log(f"sqlite:///{tmp_path / 'log.db'}")
    monkeypatch.setattr("esper.nissa.sink.shares.SHARE_TIMEOUT", 1.0)
    monkeypatch.setattr("esper.nissa.sink.shares.LOOK", 0.1)
    with log.share(ANALYSED, group_of(database.client)) as share:
        assert share.poll()
        with pytest.raises(AnalyticsError, match="end that first"), whole(database.client, log):
            pass
        threading.Timer(0.3, share.__exit__).start()
        with whole(database.client, log) as client:
            assert Sink(client, log).catch_up() == 0


def test_who_needs_the_whole_database_says_again_and_again_that_it_is_there(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its log takes it for hung after some minutes, and rebuilding may take longer."""
    log, share = open_log(f"sqlite:///{tmp_path / 'log.db'}"), ToldShare()
    Telling(log)
    polled, right = 0, share.poll

    def poll(wait: float = 0.0) -> ShareChange:
        nonlocal polled
        polled += 1
        return right(wait)

    monkeypatch.setattr(share, "poll", poll)
    monkeypatch.setattr(log, "share", lambda *_: share)
    with whole(database.client, log) as client:
        before = polled
        Sink(client, log).rebuild()
        assert polled - before > 10
        share.changes.append(ShareChange({}, {RUNS: frozenset(range(6))}))
        with pytest.raises(LogError):
            client.command("SELECT 1")


class Interrupted:
    """A client that does something before it first sends a command that begins so."""

    def __init__(self, client: Client, before: str, action: Callable[[], object]) -> None:
        self._client, self._before, self._action = client, before, action

    def __getattr__(self, name: str) -> object:
        return getattr(self._client, name)

    def command(self, text: str, **more: Any) -> object:
        if text.startswith(self._before):
            self._before = "\0"
            self._action()
        return self._client.command(text, **more)


@pytest.mark.parametrize("before", ["DELETE FROM telemetry_minutes", "INSERT INTO telemetry_minutes", "DROP TABLE "])
def test_two_sinks_may_undo_at_the_same_time(database: Database, tmp_path: Path, before: str) -> None:
    log = open_log(f"sqlite:///{tmp_path / 'log.db'}")
    Telling(log).more(3)
    Sink(database.client, log).catch_up()
    database.client.command("DELETE FROM telemetry_batches WHERE 1")

    def other() -> None:
        Sink(database.client, log).begin(TELEMETRY, range(6, PARTITIONS))

    interrupted = cast("Client", Interrupted(database.client, before, other))
    Sink(interrupted, log).begin(TELEMETRY, range(6))
    assert database.rows("SELECT count() FROM telemetry") == [(0,)]
    Sink(database.client, log).catch_up()
    assert disagreeing(database.client, log) == []
