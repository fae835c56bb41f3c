"""The report's queries against ClickHouse: what counts, and how much of a large run comes out."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import apsw
import pytest

from esper.cli.main import main
from esper.nissa.clickhouse.questions import Questions
from esper.nissa.report.gather import LINES, POINTS, Gathered, gather
from esper.nissa.report.page import page
from tests.support.command import runner
from tests.support.runs.training import Loop
from tests.support.services.warehouse import Database

NOW = datetime(2026, 1, 2, tzinfo=UTC)
TIME = "toDateTime('2026-01-01 00:00:00', 'UTC')"


def _event(database: Database, sequence: int) -> None:
    database.client.command(
        f"INSERT INTO events (log, topic, key, type, sequence, time) "
        f"VALUES ('l', 'esper.runs', 'r', 'Any', {sequence}, {TIME} + {sequence})"
    )


def _attempt(database: Database, sequence: int, first: int, cause: str = "resumed") -> None:
    _event(database, sequence)
    database.client.command(
        f"INSERT INTO attempt_starts (log, run_id, sequence, time, epoch, from_step, cause, row) "
        f"VALUES ('l', 'r', {sequence}, {TIME} + {sequence}, 1, {first}, '{cause}', {sequence})"
    )


def _telemetry(database: Database, attempt: int, metric: str, rows: str, value: str, site: str = "''") -> None:
    """``rows`` is a table with ``step`` and perhaps ``of``."""
    database.client.command(
        f"INSERT INTO telemetry SELECT 'l', 0, {attempt}, rowNumberInAllBlocks() AS row, 'r', {attempt}, '{metric}', "
        f"{site}, step, 0, now(), {value} FROM ({rows})"  # what is older than some months is dropped
    )


def _gathered(database: Database) -> Gathered:
    return gather(Questions(database.url).answer, "r")


def test_only_steps_that_are_still_owned_are_drawn(database: Database) -> None:
    _attempt(database, 1, 1, "started")
    _attempt(database, 5, 11)
    _telemetry(database, 1, "loss", "SELECT number + 1 AS step FROM numbers(20)", "1.0")
    _telemetry(database, 2, "loss", "SELECT number + 11 AS step FROM numbers(20)", "2.0")
    found = _gathered(database)
    assert [(row["x"], row["mean"]) for row in found["loss"]] == [(step, 1.0 + (step > 10)) for step in range(1, 31)]
    assert [(row["to_step"], row["reached"]) for row in found["attempts"]] == [(10, 20), (None, 30)]
    assert "10 steps run again later" in page({"r": found}, NOW)


def test_an_end_counts_until_the_run_is_resumed(database: Database) -> None:
    _attempt(database, 1, 1, "started")
    database.client.command(
        f"INSERT INTO run_ends (log, run_id, sequence, time, status, step) VALUES ('l', 'r', 2, {TIME}, 'paused', 9)"
    )
    assert [row["status"] for row in _gathered(database)["end"]] == ["paused"]
    _attempt(database, 3, 10)
    assert _gathered(database)["end"] == []


def test_waits_for_one_reason_are_one_entry(database: Database) -> None:
    _attempt(database, 1, 1, "started")
    for sequence, (action, reason) in enumerate(
        [("wait", "fell by 2.5%"), ("wait", "fell by 1%"), ("germinate", "grow"), ("wait", "fell by 0.5%")], 2
    ):
        database.client.command(
            f"INSERT INTO decisions (log, run_id, sequence, step, outcome, action, reason, row) "
            f"VALUES ('l', 'r', {sequence}, {10 * sequence}, 'made', '{action}', '{reason}', {sequence})"
        )
    told = [(row["action"], row["first"], row["last"], row["boundaries"]) for row in _gathered(database)["decisions"]]
    assert told == [("wait", 20, 30, 2), ("germinate", 40, 40, 1), ("wait", 50, 50, 1)]


def test_what_is_not_finite_is_a_gap(database: Database) -> None:
    _attempt(database, 1, 1, "started")
    _telemetry(database, 1, "loss", "SELECT number AS step FROM numbers(1, 3)", "if(step = 2, nan, inf)")
    found = _gathered(database)
    assert [(row["low"], row["mean"], row["broken"]) for row in found["loss"]] == [(None, None, 1)] * 3
    assert "The loss of 3 steps was not finite" in page({"r": found}, NOW)


@pytest.mark.slow
def test_a_long_run_with_ten_thousand_sites_gives_a_small_page(database: Database) -> None:
    _attempt(database, 1, 1, "started")
    database.client.command(
        "INSERT INTO sites (log, run_id, sequence, site_index, site, row) "
        "SELECT 'l', 'r', 1, number, concat('site', toString(number)), number FROM numbers(10000)"
    )
    steps = "SELECT number + 1 AS step FROM numbers(1000000)"
    _telemetry(database, 1, "loss", steps, "1 / step")
    grid = "SELECT 20000 * (number DIV 10000 + 1) AS step, number % 10000 AS of FROM numbers(500000)"
    _telemetry(database, 1, "gradient_norm", grid, "toFloat64(of)", "concat('site', toString(of))")
    found = _gathered(database)
    assert len(found["loss"]) <= POINTS + 1
    assert {row["line"] for row in found["norms"]} == {f"site{place}" for place in range(10_000 - LINES, 10_000)}
    text = page({"r": found}, NOW)
    assert "five of 10,000 places" in text
    assert len(text) < 250_000


def test_the_command_names_what_is_wrong(
    database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ESPER_ANALYTICS", database.url)
    _attempt(database, 1, 1, "started")
    out = tmp_path / "report.html"
    assert main(["report", "rr", "--home", str(tmp_path), "--out", str(out)]) == 1
    assert capsys.readouterr().err == "esper: there is no run 'rr' in the database; did you mean r?\n"
    assert not out.exists()
    assert main(["report", "r", "--home", str(tmp_path), "--out", str(out)]) == 0
    assert out.read_text("utf-8").startswith("<!doctype html>")
    assert main(["report", "r", "--home", str(tmp_path), "--out", str(tmp_path / "no" / "report.html")]) == 1
    assert "No such file or directory" in capsys.readouterr().err


def test_a_run_whose_beginning_has_left_the_log_is_reported_without_advice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = Loop(tmp_path, gate=lambda: None)
    loop.begin()
    loop.go()
    esper, pages = runner(tmp_path, capsys), (tmp_path / "before.html", tmp_path / "after.html")
    assert esper("report", "run", "--out", pages[0]).code == 0
    with closing(apsw.Connection(str(tmp_path / "log.db"))) as file:
        file.execute("DELETE FROM records WHERE sequence <= 2")
    assert esper("report", "run", "--out", pages[1]).code == 0
    assert ["What to do next" in page.read_text() for page in pages] == [True, False]
