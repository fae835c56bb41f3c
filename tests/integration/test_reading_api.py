"""Runs read from Python: what esper.connect gives."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import esper
from esper.errors import RunNotFound, UsageError
from esper.events.runs import SeedTransitioned
from esper.events.topics import RUNS
from esper.log import open_log
from esper.log.port import Record
from tests.support.command import Esper, runner
from tests.support.logs.runlog import events, log_url
from tests.support.runs.training import Loop, settings

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two completed runs and a torn one."""
    home = tmp_path_factory.mktemp("runs")
    for run_id, width, epochs in (("first", 4, 8), ("second", 8, 2)):
        loop = Loop(home, epochs=epochs)
        loop.begin(run_id, params={"width": width, "nested": {"a": 1}}, tags=["all", run_id], name=f"the {run_id}")
        for _ in loop.run.epochs(epochs):
            for batch in loop.run.batches(loop.batches):
                loss = loop.run.step(batch)
                loop.run.log({"loss": loss, "twice": 2 * loss})
            loop.run.log({"accuracy": loop.run.step_number / 100})
        loop.run.finish(test=lambda model: {"accuracy": 0.5})
    loop = Loop(home, settings=settings(boundary={"steps": 2}))
    loop.begin("torn")
    loop.go(until=5)
    return home


@pytest.fixture
def connection(home: Path) -> Iterator[esper.Connection]:
    with esper.connect(home) as connection:
        yield connection


def test_runs_are_listed_in_the_order_of_their_beginnings_and_found_by_what_they_are(
    connection: esper.Connection,
) -> None:
    assert [run.run_id for run in connection.runs()] == ["first", "second", "torn"]
    found = connection.search_runs
    assert [run.run_id for run in found(status="completed")] == ["first", "second"]
    assert [run.run_id for run in found(tag="second")] == ["second"]
    assert [run.run_id for run in found(name="the f")] == ["first"]
    assert [run.run_id for run in found(params={"width": 8})] == ["second"]
    assert [run.run_id for run in found(params={"nested": {"a": 1}}, where=lambda run: run.state().step > 20)] == [
        "first"
    ]
    assert found(params={"height": 8}) == []


def test_a_run_tells_all_that_it_is(connection: esper.Connection, home: Path) -> None:
    run = connection.run("first")
    assert (run.name, run.status, run.tags, run.notes) == ("the first", "completed", ("all", "first"), None)
    assert run.params == {"width": 4, "nested": {"a": 1}}
    assert run.settings.boundary.steps == 4
    assert run.summary["steps"] == 64
    assert run.summary["test"] == {"accuracy": 0.5}
    assert run.summary["metrics"]["accuracy"] == 0.64
    assert {each.stage.value for each in run.seeds} >= {"FOSSILISED"}
    assert len(run.decisions) == 16
    assert [each.step for each in run.checkpoints][-1] == 64
    assert len(list(run.events())) == len(events(home, "first"))
    moved = list(run.events(SeedTransitioned))
    assert moved == list(run.events("SeedTransitioned"))
    assert [each.kind for each in run.why(run.seeds[0].name)][:2] == ["measurements", "decision"]
    assert run.begun is not None


def test_a_run_is_seen_as_it_was_at_any_step_or_event(connection: esper.Connection) -> None:
    run = connection.run("first")
    assert run.state(at=12).step == 12
    assert run.state(at="#2").sequence == 2
    with pytest.raises(UsageError, match="run first has events 1 to"):
        run.state(at="#9999")
    with pytest.raises(UsageError, match="has logged steps 0 to 64, but not step 65"):
        run.state(at=65)
    with pytest.raises(UsageError, match="is no place in a run"):
        run.state(at="later")


def test_the_history_is_a_table_with_a_row_for_each_step(connection: esper.Connection) -> None:
    run = connection.run("second")
    table = run.history()
    assert set(table.column_names) == {"step", "loss", "learning_rate", "logged/loss", "twice", "accuracy"}
    rows = table.to_pylist()
    assert [row["step"] for row in rows] == list(range(1, 17))
    assert [row["accuracy"] for row in rows if row["accuracy"] is not None] == [0.08, 0.16]
    assert [row["step"] for row in rows if row["loss"] is not None] == [4, 8, 12, 16]
    chosen = run.history(["accuracy", "loss"], at=8)
    assert chosen.column_names == ["step", "accuracy", "loss"]
    assert chosen.to_pydict()["step"] == [4, 8]
    with pytest.raises(UsageError, match="has no metric 'acuracy'; it has"):
        run.history(["acuracy"])


def test_a_metric_called_step_does_not_take_the_steps_place(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=1)
    run = loop.begin()
    for _ in run.epochs(1):
        for batch in run.batches(loop.batches):
            run.step(batch)
            run.log({"step": 10.0 * run.step_number})
    run.finish()
    with esper.connect(tmp_path) as connection:
        table = connection.run("run").history(["logged/step"])
    assert table["step"].to_pylist() == list(range(1, 9))
    assert table["logged/step"].to_pylist() == [10.0 * step for step in range(1, 9)]


def test_sql_about_a_run_is_an_arrow_table(connection: esper.Connection) -> None:
    query = "SELECT step, value FROM metrics WHERE run_id = {run:String} AND metric = 'accuracy' ORDER BY step"
    assert connection.run("second").sql(query).to_pydict() == {"step": [8, 16], "value": [0.08, 0.16]}
    named = "SELECT name, tags FROM descriptions WHERE run_id = {run:String}"
    assert connection.run("first").sql(named).to_pylist() == [{"name": "the first", "tags": ["all", "first"]}]


def test_what_goes_on_is_read_anew_when_that_is_asked_for(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=2)
    loop.begin()
    loop.go(until=9)
    with esper.connect(tmp_path) as connection:
        run = connection.run("run")
        assert run.status == "running"
        loop.resume()
        loop.go()
        assert run.status == "running"
        assert run.refresh().status == "completed"


def test_a_run_that_is_not_there_names_the_one_most_like_it_and_reading_makes_no_files(
    connection: esper.Connection, tmp_path: Path
) -> None:
    with pytest.raises(RunNotFound, match=r"there is no run 'secnd' .*did you mean second"):
        connection.run("secnd")
    with esper.connect(tmp_path / "nowhere") as nothing:
        assert nothing.runs() == []
        with pytest.raises(RunNotFound):
            nothing.run("first")
    assert not (tmp_path / "nowhere").exists()


def test_a_run_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    Loop(tmp_path, epochs=1).whole("good")
    log = open_log(log_url(tmp_path))
    (entry, *_) = log.read(RUNS, key="good")
    writer = log.open_writer("bad")
    record = entry.record
    writer.append([Record(RUNS, "bad", record.schema, b"\xff", record.headers, writer.epoch, 1)])
    writer.close()
    log.close()
    with esper.connect(tmp_path) as connection:
        assert [run.run_id for run in connection.search_runs(status="completed")] == ["good"]
        assert len(connection.runs()) == 2


def test_reading_needs_neither_torch_nor_clickhouse(home: Path) -> None:
    code = (
        "import sys, esper\n"
        f"run = esper.connect({str(home)!r}).run('first')\n"
        "run.summary, run.seeds, run.why(run.seeds[0].name), run.history()\n"
        "print(sorted({'torch', 'chdb'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.fixture
def command(home: Path, capsys: pytest.CaptureFixture[str]) -> Esper:
    return runner(home, capsys)


def test_a_comparison_says_what_was_different_and_only_what_it_knows(command: Esper) -> None:
    told = command("compare", "first", "second").out
    assert "They began with different params; what else their programs do, such as their loss, epochs and" in told
    assert "params width" in told
    assert "the same params: nested.a" in told
    found = command("compare", "first", "second", "torn", "--json").json
    different = {(row["group"], row["name"]): row["values"] for row in found["rows"]}
    assert different["params", "width"] == [4, 8, None]
    assert different["settings", "boundary.steps"] == [4, 4, 2]
    results = {(row["group"], row["name"]): row["values"] for row in found["results"]}
    assert results["result", "status"] == ["completed", "completed", "running"]
    assert results["result", "steps"] == [64, 16, 4]
    assert results["greatest", "accuracy"] == [0.64, 0.16, None]


def test_runs_that_began_alike_are_not_said_to_be_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for run_id, epochs in (("short", 1), ("long", 3)):
        Loop(tmp_path, epochs=epochs).whole(run_id)
    told = runner(tmp_path, capsys)("compare", "short", "long").out
    assert told.startswith("All that is on the log of their beginnings is the same; what else their programs do")
    assert runner(tmp_path, capsys)("compare", "short").code == 2
    assert "did you mean short" in runner(tmp_path, capsys)("compare", "short", "shrt").err
