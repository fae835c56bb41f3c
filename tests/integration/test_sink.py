"""The log in ClickHouse: every record once, and what a crash left is undone."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from esper.errors import AnalyticsError
from esper.events.encoding.schemas import schema_of
from esper.events.telemetry import StepsMeasured
from esper.events.topics import TELEMETRY
from esper.log import open_log
from esper.log.port import Log, Record
from esper.log.records import telemetry_record
from esper.nissa.clickhouse.warehouse import connect
from esper.nissa.sink.audit import audit
from esper.nissa.sink.sink import Sink
from esper.nissa.tables import migrate as migrating
from esper.nissa.tables.migrate import migrate
from tests.support.runs.stories import START, Story
from tests.support.services.warehouse import Database


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return open_log(f"sqlite:///{tmp_path / 'log.db'}")


def told(log: Log, run_id: str = "run", steps: int = 40) -> Story:
    """A run with a seed that is kept."""
    story = Story(log, run_id, "in", "out")
    story.birth(5, "in#1", "mlp@1", parameters=10, seconds=0.1)
    for step, stage in ((8, "TRAINING"), (12, "BLENDING"), (20, "HOLDING"), (30, "FOSSILISED")):
        story.move(step, "in#1", stage)
    for step in range(10, steps + 1, 10):
        story.boundary(step)
    return story


def measure(log: Log, run_id: str, steps: range, *, attempt: int = 1, number: int = 1, value: float = 1.0) -> None:
    """One batch: the loss of each step, and a seed's gradient norm."""
    content = StepsMeasured(
        attempt=attempt,
        dropped=0,
        metrics=("loss", "gradient_norm"),
        sites=("in#1",),
        steps=tuple(steps),
        epochs=(0,) * len(steps),
        times=tuple(int(START.timestamp() * 1e6) + 1_000_000 * step for step in steps),
        series_metric=(0, 1),
        series_site=(-1, 0),
        series_length=(len(steps),) * 2,
        at=(*range(len(steps)),) * 2,
        value=(*(value for _ in steps), *map(float, steps)),
    )
    log.signal(telemetry_record(run_id, content, epoch=1, number=number, time=START))


def disagreeing(database: Database, log: Log) -> list[str]:
    return [each.table for each in audit(database.client, log) if not each.agree]


def test_everything_is_written_once_however_often_the_sink_runs(database: Database, log: Log) -> None:
    told(log)
    measure(log, "run", range(1, 41))
    first = Sink(database.client, log).catch_up()
    assert first == 1 + 1 + 1 + 4 + 4 + 1
    assert Sink(database.client, log).catch_up() == 0
    assert disagreeing(database, log) == []
    assert database.rows("SELECT count(), uniqExact(step) FROM telemetry") == [(80, 40)]
    assert database.rows("SELECT stage FROM seed_transitions ORDER BY sequence") == [
        ("GERMINATED",),
        ("TRAINING",),
        ("BLENDING",),
        ("HOLDING",),
        ("FOSSILISED",),
    ]


def test_what_came_since_is_added(database: Database, log: Log) -> None:
    story = told(log)
    sink = Sink(database.client, log)
    sink.catch_up()
    story.boundary(50)
    measure(log, "run", range(41, 51))
    assert sink.advance() == 2
    assert disagreeing(database, log) == []


@pytest.mark.parametrize(
    "lost",
    [
        "events WHERE topic = 'esper.runs' AND sequence > 4",
        "events WHERE topic = 'esper.assets'",
        "telemetry_batches WHERE offset >= (SELECT max(offset) FROM telemetry_batches)",
        "telemetry_batches WHERE 1",
    ],
)
def test_rows_that_a_killed_sink_left_are_undone_and_written_again(database: Database, log: Log, lost: str) -> None:
    told(log)
    for number in (1, 2, 3):
        measure(log, "run", range(20 * number, 20 * number + 20), number=number)
    Sink(database.client, log).catch_up()
    database.client.command(f"DELETE FROM {lost}")  # the last thing that is written
    assert Sink(database.client, log).catch_up() > 0
    assert disagreeing(database, log) == []


def test_rows_of_an_insert_that_is_still_under_way_are_undone_too(database: Database, log: Log) -> None:
    """A server goes on with one whose sender was killed, while the next sink begins."""
    for number in (1, 2):
        measure(log, "run", range(40 * number, 40 * number + 40), number=number)
    Sink(database.client, log).catch_up()
    database.client.command("CREATE TABLE late ENGINE = Memory AS SELECT * FROM telemetry WHERE step >= 80")
    database.client.command("DELETE FROM telemetry_batches WHERE offset = (SELECT max(offset) FROM telemetry_batches)")
    Sink(database.client, log).begin_all()
    sent = connect(database.url)
    text = "INSERT INTO telemetry SELECT * FROM late WHERE NOT sleepEachRow(0.02)"
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(sent.command, text, settings={"max_block_size": 1000})
        while not database.rows("SELECT 1 FROM system.processes WHERE query_kind = 'Insert'"):
            assert not answer.done()
        Sink(database.client, log).catch_up()
        answer.result()
    assert disagreeing(database, log) == []


def test_a_rollup_whose_view_missed_a_block_is_made_again(database: Database, log: Log) -> None:
    measure(log, "run", range(1, 200))
    Sink(database.client, log).catch_up()
    database.client.command("DELETE FROM telemetry_batches WHERE 1")
    database.client.command("DELETE FROM telemetry_minutes WHERE metric = 'loss'")
    Sink(database.client, log).catch_up()
    assert disagreeing(database, log) == []


def test_the_audit_sees_a_row_that_is_missing_twice_or_another(database: Database, log: Log) -> None:
    told(log)
    measure(log, "run", range(1, 41))
    Sink(database.client, log).catch_up()
    client = database.client
    client.command("DELETE FROM boundaries WHERE step = 20")
    client.command("INSERT INTO sites SELECT * REPLACE (row + 100 AS row) FROM sites WHERE site = 'in'")
    client.command("ALTER TABLE events UPDATE payload = '{}' WHERE sequence = 3 SETTINGS mutations_sync = 1")
    client.command("INSERT INTO telemetry_minutes SELECT * FROM telemetry_minutes WHERE metric = 'loss' LIMIT 1")
    assert sorted(disagreeing(database, log)) == ["boundaries", "events", "sites", "telemetry_minutes"]
    Sink(database.client, log).rebuild()
    assert disagreeing(database, log) == []


def test_a_rebuilt_database_has_the_digests_of_the_live_one(database: Database, log: Log) -> None:
    told(log)
    measure(log, "run", range(1, 41))
    Sink(database.client, log).catch_up()
    tables = [name for (name,) in database.rows("SELECT name FROM system.tables WHERE database = currentDatabase()")]
    kept = [
        each
        for each in tables
        if not each.endswith(("_filling", "migrations", "telemetry_minutes", "telemetry_epochs"))
    ]

    def digests() -> dict[str, object]:
        query = "SELECT count(), groupBitXor(cityHash64(*)) FROM {}"
        return {table: database.rows(query.format(table)) for table in kept}

    before = digests()
    assert sum(found[0][0] > 0 for found in before.values()) > 8  # type: ignore[index]
    Sink(database.client, log).rebuild()
    assert digests() == before


def test_a_record_that_cannot_be_read_is_there_with_its_error(database: Database, log: Log) -> None:
    told(log)
    schema = schema_of(StepsMeasured)
    log.signal(Record(TELEMETRY, "run", schema, b"\xff\xff"))
    Sink(database.client, log).catch_up()
    [(error,)] = database.rows("SELECT error FROM telemetry_batches")
    assert "cannot be read" in error
    assert disagreeing(database, log) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"at": (0, 7)},
        {"series_metric": (0, 2)},
        {"series_site": (0, -2)},
        {"series_length": (1, 2)},
        {"series_length": (3, -1)},
        {"series_length": (2,)},
        {"value": (1.0,)},
        {"times": ()},
    ],
)
def test_a_batch_whose_arrays_do_not_fit_is_refused_whole(
    database: Database, log: Log, wrong: dict[str, object]
) -> None:
    right: dict[str, object] = {
        "attempt": 1,
        "dropped": 0,
        "metrics": ("loss",),
        "sites": ("in",),
        "steps": (1,),
        "epochs": (0,),
        "times": (10**15,),
        "series_metric": (0, 0),
        "series_site": (0, -1),
        "series_length": (1, 1),
        "at": (0, 0),
        "value": (1.0, 2.0),
    }
    content = StepsMeasured(**(right | wrong))  # type: ignore[arg-type]
    log.signal(telemetry_record("run", content, epoch=1, number=1, time=START))
    Sink(database.client, log).catch_up()
    assert database.rows("SELECT count() FROM telemetry") == [(0,)]
    assert database.rows("SELECT error != '' FROM telemetry_batches") == [(1,)]
    assert disagreeing(database, log) == []


def test_numbers_that_are_not_finite_are_kept_as_such(database: Database, log: Log) -> None:
    for number, value in enumerate((math.nan, math.inf, -math.inf), 1):
        measure(log, "run", range(number, number + 1), number=number, value=value)
    Sink(database.client, log).catch_up()
    found = [value for (value,) in database.rows("SELECT value FROM telemetry WHERE metric = 'loss' ORDER BY step")]
    assert math.isnan(found[0])
    assert found[1:] == [math.inf, -math.inf]


def test_ten_thousand_sites_and_a_clock_that_goes_backwards(database: Database, log: Log) -> None:
    story = Story(log, "run", *(f"site{number}" for number in range(10_000)))
    story.boundary(10, at=100)
    story.boundary(20, at=-5000)
    Sink(database.client, log).catch_up()
    assert database.rows("SELECT count() FROM sites") == [(10_000,)]
    assert database.rows("SELECT step FROM boundaries ORDER BY sequence") == [(10,), (20,)]
    assert disagreeing(database, log) == []


def test_two_logs_with_the_same_run_do_not_mix_their_records(database: Database, log: Log, tmp_path: Path) -> None:
    other = open_log(f"sqlite:///{tmp_path / 'other.db'}")
    told(log)
    told(other, steps=20)
    for each in (log, other):
        Sink(database.client, each).catch_up()
    assert disagreeing(database, log) == disagreeing(database, other) == []


# Steps that were executed twice


def test_each_step_counts_once_whoever_executed_it_again(database: Database, log: Log) -> None:
    """Attempt 1 gets to step 30 and is killed; 2 goes on from step 20, is rolled back at 40; 3 goes on to 60, while the
    first trainer, a zombie, still measures."""
    story = told(log, steps=20)
    measure(log, "run", range(1, 31), number=1, value=1.0)
    story.resume(25, checkpoint=20)
    measure(log, "run", range(21, 41), attempt=2, number=2, value=2.0)
    measure(log, "run", range(31, 60), attempt=1, number=3, value=99.0)
    story.roll_back(40, to_step=35)
    measure(log, "run", range(41, 61), attempt=3, number=4, value=3.0)
    Sink(database.client, log).catch_up()
    owned = database.rows("SELECT step, value FROM measurements WHERE metric = 'loss' ORDER BY step")
    assert owned == [(step, 1.0 if step <= 20 else 2.0 if step <= 40 else 3.0) for step in range(1, 61)]
    assert database.rows("SELECT count() FROM telemetry WHERE metric = 'loss'") == [(30 + 20 + 29 + 20,)]
    for rollup in ("measured_epochs", "measured_minutes"):
        found = database.rows(
            f"SELECT attempt, sum(n), sum(total), min(least), max(most) FROM {rollup} WHERE metric = 'loss' "
            f"GROUP BY attempt ORDER BY attempt"
        )
        assert found == [(1, 20, 20.0, 1.0, 1.0), (2, 20, 40.0, 2.0, 2.0), (3, 20, 60.0, 3.0, 3.0)], rollup


# Migrations


def test_a_migration_that_was_interrupted_goes_on_where_it_was(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = database.client
    for (name,) in database.rows("SELECT name FROM system.tables WHERE database = currentDatabase()"):
        client.command(f"DROP TABLE {name}")
    right, calls = type(client).command, 0

    def failing(self: object, *args: object, **more: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise AnalyticsError("the database went away")
        return right(self, *args, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(type(client), "command", failing)
        with pytest.raises(AnalyticsError):
            migrate(client)
    assert migrate(client)
    assert migrate(client) == []
    names = {name for (name,) in database.rows("SELECT name FROM system.tables WHERE database = currentDatabase()")}
    assert {"events", "boundaries", "telemetry", "measurements", "telemetry_minutes_filling"} <= names


def test_the_database_of_a_newer_esper_or_of_other_tables_is_refused(database: Database) -> None:
    columns = ["number", "statement", "name", "digest"]
    database.client.insert("migrations", [(9999, 1, "9999_later.sql", "00")], column_names=columns)
    with pytest.raises(AnalyticsError, match="newer Esper"):
        migrate(database.client)
    database.client.command("DELETE FROM migrations WHERE number = 9999")
    database.client.insert("migrations", [(1, 9999, "0001_events.sql", "00")], column_names=columns)
    with pytest.raises(AnalyticsError, match="another file"):
        migrate(database.client)


def test_every_column_of_a_unit_says_which(database: Database) -> None:
    bare = database.rows(
        "SELECT table, name FROM system.columns WHERE database = currentDatabase() AND name IN ('seconds', 'bytes') "
        "AND comment = ''"
    )
    assert bare == []
    assert len(migrating.migrations()) >= 2
