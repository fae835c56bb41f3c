"""Measurements of steps from the trainer to ClickHouse: every step once, and never in the way of the training."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from esper.errors import LogError
from esper.events.telemetry import StepsMeasured
from esper.events.topics import TELEMETRY
from esper.log import open_log
from esper.log.port import Position, Record
from esper.log.records import event_of
from esper.log.sqlite.log import SqliteLog
from esper.nissa.sink.sink import Sink
from esper.settings import Telemetry
from esper.tolaria.telemetry.recorder import Recorder
from tests.support.logs.runlog import history, log_url
from tests.support.runs.training import Loop, settings
from tests.support.services.warehouse import Database

MEASURED = settings(telemetry={"every": 1, "sites": 5, "seconds": 0.2})


def batches(home: Path, run_id: str = "run") -> list[StepsMeasured]:
    contents = [event_of(entry).content for entry in open_log(log_url(home)).read(TELEMETRY, key=run_id)]
    return [each for each in contents if isinstance(each, StepsMeasured)]


def test_a_run_is_measured_at_every_step_its_seeds_too(tmp_path: Path) -> None:
    loop = Loop(tmp_path, settings=MEASURED)
    loop.begin()
    loop.go()
    found = batches(tmp_path)
    steps = [step for each in found for step in each.steps]
    assert steps == list(range(1, 41))
    names = {metric for each in found for metric in each.metrics}
    assert names == {"loss", "step_seconds", "learning_rate", "gradient_norm", "weight_norm", "alpha"}
    sites = {site for each in found for site in each.sites}
    assert {"0", "3"} <= sites
    assert any("#" in site for site in sites)


def test_a_seed_is_measured_as_long_as_it_learns(tmp_path: Path, database: Database) -> None:
    loop = Loop(tmp_path, settings=MEASURED, epochs=12)
    loop.begin()
    loop.go()
    Sink(database.client, open_log(log_url(tmp_path))).catch_up()
    ended = "SELECT seed, max(step) FROM seed_transitions WHERE stage IN ('FOSSILISED', 'CULLED') GROUP BY seed"
    last = "SELECT site, max(step) FROM measurements WHERE metric = 'gradient_norm' GROUP BY site"
    ends, measured = dict(database.rows(ended)), dict(database.rows(last))
    assert any(step < 96 for step in ends.values())
    assert {seed: measured[seed] for seed in ends} == ends


def test_measuring_changes_nothing_of_the_training(tmp_path: Path) -> None:
    measured = Loop(tmp_path / "a", settings=MEASURED)
    plain = Loop(tmp_path / "b", settings=settings(telemetry={"every": 0}))

    def told(loop: Loop) -> list[object]:
        return [each for each in loop.whole() if each[0] not in ("RunStarted", "CheckpointCommitted")]

    assert told(measured) == told(plain)
    assert batches(tmp_path / "b", "whole") == []


def test_each_step_of_a_run_that_was_torn_counts_once(tmp_path: Path, database: Database) -> None:
    loop = Loop(tmp_path, settings=MEASURED)
    loop.torn(13, 22, 31)
    Sink(database.client, open_log(log_url(tmp_path))).catch_up()
    assert database.rows("SELECT max(attempt) FROM telemetry") == [(4,)]
    counted = database.rows("SELECT count(), uniqExact(step), max(step) FROM measurements WHERE metric = 'loss'")
    assert counted == [(40, 40, 40)]
    [(executed,)] = database.rows("SELECT count() FROM telemetry WHERE metric = 'loss'")
    assert executed > 40
    assert history(tmp_path, "torn")


class Stubborn:
    """A log that takes no telemetry, or none until it is told to."""

    def __init__(self) -> None:
        self.taken: list[Record] = []
        self.opened = threading.Event()
        self.error: Exception | None = None

    def signal(self, record: Record) -> Position:
        self.opened.wait(5)
        if self.error is not None:
            raise self.error
        self.taken.append(record)
        return Position(TELEMETRY, 0, len(self.taken))


def recorder(log: object, **options: float) -> Recorder:
    return Recorder(log, "run", 1, 1, Telemetry(**{"rows": 10, "buffer": 3} | options))  # type: ignore[arg-type]


def test_what_a_slow_log_does_not_take_is_dropped_counted_and_told(caplog: pytest.LogCaptureFixture) -> None:
    log = Stubborn()
    recording = recorder(log)
    began = time.monotonic()
    for step in range(1, 101):
        recording.record(step, 0, [("loss", "", float(step))])
    assert time.monotonic() - began < 1
    assert recording.dropped >= 60
    assert [line.getMessage().count("no telemetry") for line in caplog.records] == [1]
    log.opened.set()
    recording.record(101, 0, [("loss", "", 1.0)])
    recording.close()
    sent = [event_of_record(each) for each in log.taken]
    assert sum(len(each.value) for each in sent) + recording.dropped == 101
    assert sum(each.dropped for each in sent) == recording.dropped


def test_a_log_that_refuses_telemetry_ends_no_training(caplog: pytest.LogCaptureFixture) -> None:
    log = Stubborn()
    log.opened.set()
    log.error = LogError("the broker is away")
    recording = recorder(log)
    for step in range(1, 31):
        recording.record(step, 0, [("loss", "", 1.0)])
    recording.close()
    assert recording.dropped == 30
    assert len(caplog.records) == 1


def test_a_rollback_begins_another_attempt() -> None:
    log = Stubborn()
    log.opened.set()
    recording = recorder(log)
    recording.record(1, 0, [("loss", "", 1.0)])
    recording.next_attempt()
    recording.record(2, 0, [("loss", "", 2.0)])
    recording.close()
    sent = [event_of_record(each) for each in log.taken]
    assert [(each.attempt, each.steps) for each in sent] == [(1, (1,)), (2, (2,))]


def event_of_record(record: Record) -> StepsMeasured:
    from esper.events.encoding.codec import decode

    content = decode(record.schema, record.value).content
    assert isinstance(content, StepsMeasured)
    return content


def test_telemetry_is_no_part_of_a_run(tmp_path: Path) -> None:
    loop = Loop(tmp_path, settings=MEASURED)
    loop.begin()
    loop.go(until=20)
    log = SqliteLog("sqlite:///", tmp_path / "log.db")
    with log.database.transaction() as connection:
        connection.execute(
            "UPDATE records SET value = x'00' WHERE stream IN (SELECT id FROM streams WHERE topic = ?)", (TELEMETRY,)
        )
    log.close()
    loop.resume()
    loop.go()
    assert loop.run.status == "completed"
