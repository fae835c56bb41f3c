"""``esper sql``, ``sink`` and ``analytics``: what they answer, what they refuse, and two of them at once."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from esper.errors import AnalyticsError, UsageError
from esper.events.topics import RUNS
from esper.log import open_log
from esper.nissa.clickhouse.questions import Questions
from esper.nissa.embedded.server import ask
from tests.support.logs.forging import forged, plant
from tests.support.paths import ROOT
from tests.support.runs.stories import Story
from tests.support.services.warehouse import Database


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home whose log holds a run."""
    story = Story(open_log(f"sqlite:///{tmp_path / 'log.db'}"), "run", "in")
    for step in (10, 20, 30):
        story.boundary(step)
    return tmp_path


def esper(home: Path, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "esper", *arguments, "--home", str(home)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={name: value for name, value in os.environ.items() if not name.startswith("ESPER_")},
        check=False,
    )


@contextmanager
def sink(home: Path) -> Iterator[subprocess.Popen[str]]:
    """``esper sink``, once it answers."""
    command = [sys.executable, "-m", "esper", "sink", "--home", str(home)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not (home / "clickhouse.sock").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield process
        process.kill()


# Asking


def test_a_question_with_a_parameter_is_answered_from_the_log(home: Path) -> None:
    query = "SELECT step FROM boundaries WHERE run_id = {run:String} AND step > {least:UInt64} ORDER BY step"
    answer = esper(home, "sql", query, "--param", "run=run", "--param", "least=10", "--format", "csv")
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, '"step"\n20\n30\n', "")
    asked = json.loads(esper(home, "sql", "SELECT count() AS n FROM events", "--json").stdout)
    assert set(asked) >= {"meta", "data", "rows"}
    assert asked["data"] == [{"n": 4}]


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (["SELECT nope FROM runs"], "UNKNOWN_IDENTIFIER", 1),
        (["SELCT 1"], "Syntax error", 1),
        (["SELECT {a:String}"], "a", 1),
        ([], "name one query", 2),
        (["SELECT 1", "--param", "x"], "NAME=VALUE", 2),
        (["--named", "no-such"], "--named lists them", 2),
        (["SELECT 1 FORMAT CSV"], "choose it with --format", 2),
    ],
)
def test_a_wrong_question_is_told_in_one_line(home: Path, arguments: list[str], said: str, code: int) -> None:
    answer = esper(home, "sql", *arguments)
    assert answer.returncode == code
    assert len(answer.stderr.splitlines()) == 1
    assert said in answer.stderr


def test_an_answer_without_rows_says_so(home: Path) -> None:
    answer = esper(home, "sql", "--named", "seed_survival", "--param", "run=no-such")
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "no rows\n")


def test_a_terminal_gets_no_binary_answer(home: Path) -> None:
    ours, its = os.openpty()
    command = [sys.executable, "-m", "esper", "sql", "SELECT 1", "--format", "parquet", "--home", str(home)]
    try:
        answer = subprocess.run(command, cwd=ROOT, stdout=its, stderr=subprocess.PIPE, check=False, timeout=60)
    finally:
        os.close(ours)
        os.close(its)
    assert (answer.returncode, b"> FILE" in answer.stderr) == (2, True)


REFUSED = [
    "SELECT 1 INTO OUTFILE '{file}'",
    "SELECT 1 /* x */ into\noutfile '{file}'",
    "SELECT * FROM file('{file}', 'CSV')",
    "SELECT file('{file}')",
    "SELECT FILE('{file}')",
    "SELECT `fi\\x6ce`('{file}')",
    "SELECT '--', file('{file}')",
    "SELECT $$'$$, file('{file}')",
    "SELECT $a$'$a$, file('{file}')",
    "SELECT 1 # '\n, file('{file}')",
    "SELECT 'it''s', file('{file}') -- '",
    "SELECT '\\'', file('{file}')",
    "SELECT * FROM `file`('{file}', 'CSV')",
    "SELECT * FROM \"file\"('{file}', 'CSV')",
    "SELECT * FROM url('http://127.0.0.1:1/x', 'CSV')",
    "SELECT * FROM s3('http://127.0.0.1:1/bucket/x', 'CSV')",
    "SELECT * FROM remote('127.0.0.1:1', system.one)",
    "SELECT * FROM executable('id', 'TSV', 'x String')",
    "INSERT INTO FUNCTION file('{file}', 'CSV') SELECT 1",
    "INSERT INTO runs (run_id) FROM INFILE '{file}' FORMAT CSV",
    "SELECT file/* /* */ */('{file}')",
    "WITH (SELECT file('{file}')) AS x SELECT x",
    "CREATE VIEW v AS SELECT file('{file}')",
    "CREATE DICTIONARY d (a String) PRIMARY KEY a SOURCE(FILE(path '{file}' format 'CSV')) LAYOUT(FLAT()) LIFETIME(0)",
    "BACKUP TABLE runs TO File('{file}.backup')",
    "ATTACH TABLE t FROM '{file}' (a String) ENGINE = MergeTree ORDER BY a",
    "SELECT 1; SELECT file('{file}')",
    "SELECT 1;\nINSERT INTO FUNCTION file('{file}', 'CSV') SELECT 1",
]
READ_ONLY = [
    "CREATE TABLE t (a Int8) ENGINE = Memory",
    "INSERT INTO runs (run_id) VALUES ('x')",
    "DROP TABLE runs",
    "SET readonly = 0",
    "SELECT 1 SETTINGS readonly = 0",
    "OPTIMIZE TABLE runs",
]
ENGINES = [
    "CREATE TABLE t (a Int8) ENGINE = File(CSV)",
    "CREATE TABLE t (a Int8) ENGINE = URL('http://127.0.0.1:1/x')",
    "CREATE DATABASE d ENGINE = Filesystem('/')",
]


@pytest.mark.parametrize("query", REFUSED)
@pytest.mark.parametrize("write", [False, True])
def test_no_query_reaches_a_file_or_another_machine(
    database: Database, tmp_path: Path, query: str, write: bool
) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("secret\n")
    with pytest.raises((UsageError, AnalyticsError)) as caught:
        Questions(database.url).answer(query.format(file=secret), {}, "csv", write)
    assert "secret\n" not in str(caught.value)
    assert secret.read_text() == "secret\n"
    assert {each.name for each in tmp_path.iterdir()} - {"clickhouse"} == {"secret.csv"}


@pytest.mark.parametrize("query", READ_ONLY)
def test_without_write_nothing_is_changed(database: Database, query: str) -> None:
    tables = (
        "SELECT name, if(name = 'migrations', NULL, total_rows) FROM system.tables"  # which it merges by itself
        " WHERE database = currentDatabase() ORDER BY name"
    )
    before = database.rows(tables)
    with pytest.raises((UsageError, AnalyticsError)):
        Questions(database.url).answer(query, {}, "csv")
    assert database.rows(tables) == before


@pytest.mark.parametrize("query", ENGINES)
def test_with_write_no_table_is_a_file_or_on_another_machine(database: Database, query: str) -> None:
    with pytest.raises(UsageError, match="files or other machines"):
        Questions(database.url).answer(query, {}, "csv", write=True)


def test_with_write_the_database_can_be_changed(database: Database) -> None:
    questions = Questions(database.url)
    questions.answer("CREATE TABLE mine (a String) ENGINE = MergeTree ORDER BY a", {}, "csv", write=True)
    questions.answer("INSERT INTO mine SELECT 'file(1) INTO OUTFILE'", {}, "csv", write=True)
    assert questions.answer("SELECT a FROM mine", {}, "csv") == b'"a"\n"file(1) INTO OUTFILE"\n'


def test_what_a_failed_query_had_written_is_in_no_later_answer(database: Database) -> None:
    questions = Questions(database.url)
    with pytest.raises(AnalyticsError, match="TOO_MANY_ROWS"):
        questions.answer("SELECT number FROM numbers(20000000)", {}, "csv")
    assert questions.answer("SELECT 1 AS one", {}, "csv") == b'"one"\n1\n'


# One process at a time


def test_two_commands_at_once_are_both_answered(home: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "esper",
        "sql",
        "SELECT count() FROM events",
        "--format",
        "csv",
        "--home",
        str(home),
    ]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert {process.communicate(timeout=60)[0] for process in both} == {'"count()"\n4\n'}


def test_a_sink_answers_for_the_database_that_it_has(home: Path) -> None:
    with sink(home) as process:
        place = home / "clickhouse.sock"
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
        deadline = time.monotonic() + 30
        answer: Any = None
        while time.monotonic() < deadline and answer != '"count()"\n4\n':
            answer = esper(home, "sql", "SELECT count() FROM events", "--format", "csv").stdout
        assert answer == '"count()"\n4\n'
        wrong = esper(home, "sql", "SELECT file('/etc/hostname')")
        assert (wrong.returncode, len(wrong.stderr.splitlines())) == (2, 1)
        again = esper(home, "sink")
        assert again.returncode == 1
        assert f"process {process.pid}" in again.stderr
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert not place.exists()
    assert esper(home, "analytics", "check").returncode == 0


def test_who_asks_a_sink_may_leave_before_the_answer(home: Path) -> None:
    with sink(home) as process:
        with socket.socket(socket.AF_UNIX) as asker:
            asker.connect(str(home / "clickhouse.sock"))
            asker.sendall(b'{"sql": "SELECT sleep(1)", "parameters": {}, "form": "csv", "write": false}\n')
        assert esper(home, "sql", "SELECT 1", "--format", "csv").stdout == '"1"\n1\n'
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        assert len(process.stderr.read().splitlines()) == 1  # where it writes to


def test_a_question_about_a_home_that_is_not_there_makes_none(tmp_path: Path) -> None:
    asked = esper(tmp_path / "mistyped", "sql", "SELECT 1")
    assert (asked.returncode, "there are no runs in" in asked.stderr) == (2, True)
    assert not (tmp_path / "mistyped").exists()


LONG = "SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 3"


def test_a_question_that_nobody_waits_for_holds_up_neither_the_next_nor_the_sinks_end(home: Path) -> None:
    with sink(home) as process:
        with _asking(home, LONG):
            time.sleep(2)  # it is being answered
        began = time.monotonic()
        assert esper(home, "sql", "SELECT 1", "--format", "csv").stdout == '"1"\n1\n'
        assert time.monotonic() - began < 20
        with _asking(home, LONG):
            time.sleep(2)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0


@contextmanager
def _asking(home: Path, query: str) -> Iterator[None]:
    """A question to the sink, whose answer nobody takes."""
    question = {"sql": query, "parameters": {}, "form": "csv", "write": False}
    with socket.socket(socket.AF_UNIX) as asker:
        asker.connect(str(home / "clickhouse.sock"))
        asker.sendall(f"{json.dumps(question)}\n".encode())
        yield


def test_control_c_ends_a_question_that_takes_long(home: Path) -> None:
    command = [sys.executable, "-m", "esper", "sql", LONG, "--home", str(home)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while _processor_seconds(process.pid) < 8:  # it is counting
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        process.wait(5)
    assert esper(home, "sql", "SELECT 1", "--format", "csv").stdout == '"1"\n1\n'


def _processor_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def test_a_sink_that_is_killed_leaves_nothing_that_holds_up_the_next(home: Path) -> None:
    with sink(home) as process:
        process.kill()
        process.wait(10)
    assert esper(home, "sql", "SELECT count() FROM events", "--format", "csv").stdout == '"count()"\n4\n'


def test_a_database_that_is_taken_names_who_has_it(home: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from esper.nissa.embedded.ownership import owning\n"
        "with owning(Path(sys.argv[1])): print('mine', flush=True); time.sleep(60)"
    )
    folder = home / "clickhouse"
    with subprocess.Popen(
        [sys.executable, "-c", program, folder], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        began = time.monotonic()
        answer = esper(home, "sql", "SELECT 1")
        assert 9 < time.monotonic() - began < 30
        assert (answer.returncode, len(answer.stderr.splitlines())) == (1, 1)
        assert f"process {owner.pid}" in answer.stderr
        owner.kill()


def test_check_and_rebuild_mend_a_database(home: Path) -> None:
    assert esper(home, "analytics", "migrate").returncode == 0
    assert esper(home, "analytics", "check").returncode == 0
    esper(home, "sql", "DELETE FROM boundaries WHERE step = 20", "--write")
    wrong = esper(home, "analytics", "check", "--json")
    assert wrong.returncode == 1
    assert [each["table"] for each in json.loads(wrong.stdout)["tables"] if not each["agree"]] == ["boundaries"]
    assert json.loads(esper(home, "analytics", "rebuild", "--json").stdout)["records"] == 4
    assert esper(home, "analytics", "check").returncode == 0


def answered(home: Path, query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(esper(home, "sql", query, "--json").stdout)["data"]
    return found


def test_a_forged_end_of_a_run_is_told_and_gone_after_its_exclusion_and_a_rebuild(home: Path) -> None:
    ended = "SELECT toUInt8(count()) AS n FROM run_ends"
    log = open_log(f"sqlite:///{home / 'log.db'}")
    position = plant(log, forged(log, "run", "RunCompleted", "the next"))
    log.close()
    assert answered(home, ended) == [{"n": 1}]
    told = esper(home, "analytics", "check", "--json")
    assert told.returncode == 1
    assert str(position) in json.loads(told.stdout)["untaken"][0]
    assert esper(home, "dlq", "exclude", str(position), "--why", "forged").returncode == 0
    wrong = json.loads(esper(home, "analytics", "check", "--json").stdout)
    assert "run_ends" in [each["table"] for each in wrong["tables"] if not each["agree"]]
    assert esper(home, "analytics", "rebuild").returncode == 0
    assert esper(home, "analytics", "check").returncode == 0
    assert answered(home, ended) == [{"n": 0}]


def test_the_chain_is_a_column_that_the_check_compares(home: Path) -> None:
    log = open_log(f"sqlite:///{home / 'log.db'}")
    plant(log, forged(log, "run", "RunResumed", "the next"))
    log.close()
    assert esper(home, "analytics", "check").returncode == 0
    assert len(answered(home, "SELECT link FROM events WHERE link != ''")) == 1
    esper(home, "sql", "ALTER TABLE events UPDATE link = 'another' WHERE link != ''", "--write")
    wrong = json.loads(esper(home, "analytics", "check", "--json").stdout)
    assert [each["table"] for each in wrong["tables"] if not each["agree"]] == ["events"]


def test_a_log_that_took_another_ones_place_is_told_by_whoever_fills_the_database(home: Path) -> None:
    esper(home, "sql", "SELECT 1")
    for each in home.glob("log.db*"):
        each.unlink()
    Story(open_log(f"sqlite:///{home / 'log.db'}"), "other", "in").boundary(10)
    asked = esper(home, "sql", "SELECT count() FROM events", "--format", "csv")
    assert (asked.returncode, asked.stdout) == (0, '"count()"\n6\n')
    assert "4 records of the former" in asked.stderr
    assert len(asked.stderr.splitlines()) == 1
    assert esper(home, "sql", "SELECT 1").stderr == ""
    checked = json.loads(esper(home, "analytics", "check", "--json").stdout)
    assert checked["agree"]
    assert [(each["records"], each["reason"]) for each in checked["lost"]] == [(4, "replaced")]
    rebuilt = json.loads(esper(home, "analytics", "rebuild", "--json").stdout)
    assert (rebuilt["records"], rebuilt["kept_rows"], rebuilt["kept_rollups"]) == (2, 11, 0)
    dropped = json.loads(esper(home, "analytics", "rebuild", "--drop", "--json").stdout)
    assert (dropped["records"], dropped["kept_rows"], dropped["lost"]) == (2, 0, [])


@pytest.mark.parametrize(("start", "written"), [("beginning", 4), ("RUNS", 2)])
def test_a_sink_goes_back_as_far_as_it_is_told(home: Path, start: str, written: int) -> None:
    esper(home, "sql", "SELECT 1")
    esper(home, "sql", "DELETE FROM boundaries WHERE step > 10", "--write")
    log = open_log(f"sqlite:///{home / 'log.db'}")
    place = str([entry.position for entry in log.read(RUNS)][2]) if start == "RUNS" else start
    command = [sys.executable, "-m", "esper", "sink", "--from", place, "--json", "--home", str(home)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        deadline, found = time.monotonic() + 60, b""
        while time.monotonic() < deadline and found != b'"count()"\n3\n':
            time.sleep(0.1)
            with suppress(AnalyticsError):
                found = ask(str(home / "clickhouse.sock"), "SELECT count() FROM boundaries", {}, "csv", False)
        time.sleep(0.5)  # until the records themselves are there
        process.send_signal(signal.SIGTERM)
        told = json.loads(process.communicate(timeout=30)[0])
    assert told == {"records": written, "failures": 0}
    assert esper(home, "analytics", "check").returncode == 0


@pytest.mark.parametrize("place", ["nowhere", "esper.nothing/0:1", "esper.runs/12:1"])
def test_a_place_that_no_sink_reads_is_refused(home: Path, place: str) -> None:
    answer = esper(home, "sink", "--from", place)
    assert (answer.returncode, len(answer.stderr.splitlines())) == (2, 1)
