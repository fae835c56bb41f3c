"""A run whose log loses its writer again and again has the history of one whose log never did; clocks do not matter."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import cycle, repeat
from pathlib import Path
from typing import Any

import pytest

from esper.errors import Fenced, Quarantined
from esper.events.encoding.schemas import Schema
from esper.events.runs import CommandAccepted, RunResumed, RunStarted
from esper.events.topics import RUNS
from esper.log import open_log
from esper.log.records import run_record
from esper.log.sqlite.log import SqliteLog
from esper.log.sqlite.log import _schema_id as schema_id
from esper.tolaria.journal import journal as journal_module
from tests.integration.test_signals import send
from tests.support.logs.faulty import Fault
from tests.support.logs.records import behind
from tests.support.runs.training import Loop, contents, events, history, settings

pytestmark = pytest.mark.usefixtures("one_thread", "no_pauses")


def check(home: Path, whole: list[tuple[str, Any]], run_id: str = "run") -> None:
    """The history is the same, ids are the log's own, and every checkpoint's event names one that is there."""
    assert history(home, run_id) == whole
    found = events(home, run_id)
    assert [event.envelope.sequence for event in found] == [*range(1, len(found) + 1)]


@pytest.mark.parametrize("fault", ["lost before", "lost after"])
def test_a_run_that_loses_its_writer_at_every_append_has_the_same_history(
    fault: Fault, faults: list[Iterator[Fault]], tmp_path: Path
) -> None:
    loop = Loop(tmp_path)
    whole = loop.whole()
    faults.append(cycle([fault, None] if fault == "lost before" else [fault]))
    loop.begin()
    summary = loop.go()
    check(tmp_path, whole)
    found = events(tmp_path)
    assert len(contents(tmp_path, RunResumed)) > len(found) / 20
    assert summary["events"] == len(found)
    assert loop.run.events_written == len(found)


@pytest.mark.parametrize("seed", range(4))
def test_a_run_whose_log_fails_at_random_and_that_crashes_too_has_the_same_history(
    seed: int, faults: list[Iterator[Fault]], tmp_path: Path
) -> None:
    loop = Loop(tmp_path)
    whole = loop.whole()
    chance = random.Random(seed)
    kinds: list[Fault] = ["away", "lost before", "lost after", None, None, None]
    faults.append(chance.choice(kinds) for _ in repeat(None))
    loop.begin()
    for step in sorted(chance.sample(range(1, 40), 3)):
        loop.go(until=step)
        loop.resume()
    loop.go()
    check(tmp_path, whole)


def test_a_command_answered_in_a_lost_transaction_is_answered_once(
    faults: list[Iterator[Fault]], tmp_path: Path
) -> None:
    loop = Loop(tmp_path, settings=settings(policy={"seeds": 0}))
    whole = loop.whole()
    faults.append(cycle(["lost before", "lost after", None]))
    loop.begin()
    send(tmp_path, "pause")
    with pytest.raises(SystemExit):
        loop.go()
    loop.resume()
    loop.go()
    check(tmp_path, whole)
    assert len(contents(tmp_path, CommandAccepted)) == 1


class Clock(datetime):
    """A system clock that jumps by hours and days, forwards and backwards."""

    chance = random.Random(0)

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return datetime(2026, 11, 22, tzinfo=UTC) + timedelta(seconds=cls.chance.randrange(-(10**7), 10**7))


def test_a_clock_that_jumps_changes_nothing_but_the_times_of_events(
    faults: list[Iterator[Fault]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loop = Loop(tmp_path)
    whole = loop.whole()
    faults.append(cycle([None, None, None, "away", None, "lost before"]))
    monkeypatch.setattr(journal_module, "datetime", Clock)
    loop.begin()
    loop.go(until=17)
    loop.resume()
    loop.go()
    check(tmp_path, whole)
    times = [event.envelope.time for event in events(tmp_path)]
    assert times != sorted(times)


def take_over(home: Path) -> None:
    """What a trainer that resumes the run does first."""
    log = open_log(f"sqlite:///{home / 'log.db'}")
    found = events(home)
    writer, sequence = log.open_writer("run"), len(found) + 1
    assert isinstance(found[0].content, RunStarted)
    content = RunResumed(checkpoint=0, inexact=False, environment=found[0].content.environment, notes=())
    fields = {"epoch": writer.epoch, "sequence": sequence, "writer": "rival", "time": datetime.now(UTC)}
    writer.append(behind(log, "run", [run_record("run", content, **fields)]))  # type: ignore[arg-type]
    log.close()


def test_a_trainer_overtaken_while_its_log_was_away_writes_nothing_more(
    faults: list[Iterator[Fault]], tmp_path: Path
) -> None:
    loop = Loop(tmp_path)
    whole = loop.whole()

    def overtaken() -> Iterator[Fault]:
        yield from [None] * 6
        take_over(tmp_path)
        yield "lost before"

    faults.append(overtaken())
    loop.begin()
    with pytest.raises(Fenced, match="epoch 2"):
        loop.go()
    assert isinstance(events(tmp_path)[-1].content, RunResumed)
    faults.clear()
    loop.resume()
    loop.go()
    assert history(tmp_path, "run") == whole


@pytest.mark.parametrize("last", [True, False], ids=["the last event", "one before"])
def test_a_quarantined_run_is_not_resumed_and_its_trainer_not_fenced(last: bool, tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    loop.begin()
    loop.go(until=20)
    log = SqliteLog("sqlite:///", tmp_path / "log.db")
    entry = [*log.read(RUNS, key="run")][-1 if last else -2]
    with log.database.transaction() as connection:
        foreign = schema_id(connection, Schema("foreign.Event", "0", '{"type": "record"}', {}))
        connection.execute("UPDATE records SET schema = ? WHERE offset = ?", (foreign, entry.position.offset))
    before = written(log)
    with pytest.raises(Quarantined, match=rf"event {entry.record.sequence} at {entry.position} cannot be read"):
        loop.resume()
    assert written(log) == before
    log.close()


def written(log: SqliteLog) -> Any:
    with log.database.session() as connection:
        return connection.execute("SELECT * FROM writers").fetchall()
