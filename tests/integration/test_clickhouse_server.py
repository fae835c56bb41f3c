"""A ClickHouse server that is too old, down, hanging, full or locked, and what goes over HTTP.

The old one is real: Debian's 18.16. A new one is not to be had everywhere, so a stand-in
(tests/support/services/clickhouse_http.py) is asked over HTTP; where ESPER_TEST_CLICKHOUSE names a real one, the
contract is run there (tests/support/services/warehouse.py).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NoReturn

import pytest

from esper.errors import AnalyticsError, UsageError
from esper.log import open_log
from esper.nissa.clickhouse import server as remote
from esper.nissa.clickhouse.errors import told
from esper.nissa.clickhouse.questions import Questions
from esper.nissa.clickhouse.warehouse import LIMITS, connect
from esper.nissa.sink.audit import audit
from esper.nissa.sink.sink import Sink
from tests.support.paths import ROOT
from tests.support.runs.stories import Story
from tests.support.services.warehouse import new_database

OLD = shutil.which("clickhouse-server", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
CONFIG = """<yandex>
<logger><level>warning</level><log>{folder}/log</log><errorlog>{folder}/errors</errorlog></logger>
<listen_host>127.0.0.1</listen_host><http_port>{port}</http_port>
<path>{folder}/data/</path><tmp_path>{folder}/tmp/</tmp_path><mark_cache_size>5000000</mark_cache_size>
<users_config>{folder}/users.xml</users_config><default_profile>default</default_profile>
</yandex>"""
USERS = """<yandex><profiles><default/></profiles><quotas><default/></quotas><users>
<default><password/><networks><ip>127.0.0.1</ip></networks><profile>default</profile><quota>default</quota></default>
<locked><password>right</password><networks><ip>127.0.0.1</ip></networks><profile>default</profile>
<quota>default</quota></locked></users></yandex>"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def esper(home: Path, url: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ESPER_")}
    return subprocess.run(
        [sys.executable, "-m", "esper", *arguments, "--home", str(home)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env=kept | {"ESPER_ANALYTICS": url, **environment},
        check=False,
    )


def refused(url: str, *, write: bool = True) -> str:
    """The line that says why there is no client."""
    with pytest.raises(AnalyticsError) as caught:
        connect(url, limits=not write, write=write)
    assert str(caught.value).startswith(f"{url}: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Too old


def missing(reason: str) -> NoReturn:
    pytest.fail(reason) if os.environ.get("ESPER_CI") else pytest.skip(reason)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of Debian's server."""
    if OLD is None:
        missing("Debian's clickhouse-server is not installed (apt-get install clickhouse-server)")
    folder, port = tmp_path_factory.mktemp("old"), free_port()
    (folder / "config.xml").write_text(CONFIG.format(folder=folder, port=port))
    (folder / "users.xml").write_text(USERS)
    with subprocess.Popen(
        [OLD, f"--config-file={folder / 'config.xml'}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            version = _first_answer(process, f"http://127.0.0.1:{port}/?query=SELECT%20version()")
            if not version.startswith("18.16."):
                missing(f"the clickhouse-server here is {version}, not Debian's 18.16")
            yield f"clickhouse://127.0.0.1:{port}/esper"
        finally:
            process.kill()


def _first_answer(process: subprocess.Popen[bytes], url: str) -> str:
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as reply:
                return str(reply.read().decode().strip())
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.parametrize("command", [["sql", "SELECT 1"], ["sink"], ["analytics", "migrate"], ["analytics", "check"]])
def test_a_server_that_is_too_old_is_told_with_its_version_and_the_least_one(
    old: str, tmp_path: Path, command: list[str]
) -> None:
    answer = esper(tmp_path, old, *command)
    assert (answer.returncode, answer.stdout, len(answer.stderr.splitlines())) == (1, "", 1)
    assert old in answer.stderr
    assert "18.16.1, which is too old; Esper needs 24.8 or newer" in answer.stderr


def test_a_wrong_password_on_the_old_server_is_told_with_the_variables(old: str, tmp_path: Path) -> None:
    given = {"ESPER_CLICKHOUSE_USERNAME": "locked", "ESPER_CLICKHOUSE_PASSWORD": "wr\u00f6ng"}
    answer = esper(tmp_path, old, "sql", "SELECT 1", **given)
    assert (answer.returncode, len(answer.stderr.splitlines())) == (1, 1)
    assert "Wrong password" in answer.stderr
    assert "set ESPER_CLICKHOUSE_USERNAME and ESPER_CLICKHOUSE_PASSWORD" in answer.stderr
    right = esper(tmp_path, old, "sql", "SELECT 1", **{**given, "ESPER_CLICKHOUSE_PASSWORD": "right"})
    assert "too old" in right.stderr


# Down, hanging, full, locked


Answer = Callable[[str], tuple[int, str]]


@contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """The URL of a server that gives to each query the status and text of ``answer``."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            status, text = answer(self.path + self.rfile.read(length).decode(errors="replace"))
            self.send_response(status)
            if text.startswith("Code: "):
                self.send_header("X-ClickHouse-Exception-Code", text.split()[1].rstrip("."))
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"clickhouse://127.0.0.1:{server.server_port}/esper"
        server.shutdown()


def version_then(status: int, text: str) -> Answer:
    asked: list[str] = []

    def answer(query: str) -> tuple[int, str]:
        asked.append(query)
        return (200, "25.8.1.1\n") if len(asked) == 1 else (status, text)

    return answer


@pytest.mark.parametrize("command", [["sql", "SELECT 1"], ["analytics", "migrate"], ["analytics", "check"]])
def test_a_server_that_is_down_is_told_in_one_line(tmp_path: Path, command: list[str]) -> None:
    url = f"clickhouse://127.0.0.1:{free_port()}/esper"
    answer = esper(tmp_path, url, *command)
    assert (answer.returncode, answer.stdout, len(answer.stderr.splitlines())) == (1, "", 1)
    assert f"{url}: nobody answers there (Connection refused); start the server" in answer.stderr


def test_a_server_that_accepts_and_never_answers_is_given_up_in_seconds(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        said = refused(f"clickhouse://127.0.0.1:{silent.getsockname()[1]}/esper")
    assert time.monotonic() - began < 10
    assert "does not answer in time" in said


def test_a_server_that_hangs_behind_its_first_answer_is_given_up_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "CONNECT_TIMEOUT", 1)
    over = threading.Event()
    first = version_then(0, "")

    def answer(query: str) -> tuple[int, str]:
        status, text = first(query)
        over.wait(0 if status else 20)
        return status or 500, text

    with answering(answer) as url:
        began = time.monotonic()
        said = refused(url)
        over.set()
    assert time.monotonic() - began < 5
    assert "does not answer in time" in said


FULL = "Code: 243. DB::Exception: Cannot reserve 1.00 MiB, not enough space. (NOT_ENOUGH_SPACE) (version 25.8.1.1)"
LOCKED = (
    "Code: 516. DB::Exception: esper: Authentication failed: password is incorrect, or there is no user with such name."
    "\n\nIf you use ClickHouse Cloud, the password can be reset there.\n\n. (AUTHENTICATION_FAILED)"
)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (version_then(500, FULL), "not enough space. (NOT_ENOUGH_SPACE) (version 25.8.1.1); free space on its disk"),
        (lambda _: (403, LOCKED), "with such name.; set ESPER_CLICKHOUSE_USERNAME and ESPER_CLICKHOUSE_PASSWORD"),
        (lambda _: (200, "<html>hello"), "no ClickHouse server, or not its HTTP port (usually 8123, with TLS 8443)"),
        (lambda _: (404, ""), "it answers 404: nothing"),
        (lambda _: (200, "24.7.9.1\n"), "its ClickHouse is 24.7.9.1, which is too old; Esper needs 24.8"),
    ],
)
def test_what_a_server_refuses_is_one_line_with_a_remedy(answer: Answer, said: str) -> None:
    with answering(answer) as url:
        assert said in refused(url)


@pytest.mark.parametrize(
    "url",
    ["clickhouse://", "clickhouse://host:port/x", "clickhouse://host/x?secure=1", "postgres://host/x", "host:8123"],
)
def test_an_address_that_is_none_is_told_as_such(url: str) -> None:
    with pytest.raises(UsageError, match="use chdb:///FOLDER or clickhouse://HOST:PORT/NAME"):
        connect(url)


def test_a_password_in_the_address_is_not_printed() -> None:
    with pytest.raises(UsageError) as caught:
        connect("clickhouse://esper:secret@127.0.0.1/esper")
    assert "secret" not in str(caught.value)


# Over HTTP


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the stand-in, without a database."""
    command = [
        sys.executable,
        "-m",
        "tests.support.services.clickhouse_http",
        "0",
        str(tmp_path_factory.mktemp("stand-in") / "data"),
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"clickhouse://127.0.0.1:{int(process.stdout.readline())}"
        process.kill()


def as_user(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("ESPER_CLICKHOUSE_USERNAME", name)


def test_a_database_is_made_for_esper_but_not_for_a_question(stand_in: str) -> None:
    url = f"{stand_in}/a-new one"
    assert "there is no database a-new one; esper analytics migrate makes it" in refused(url, write=False)
    client = connect(url)
    assert client.command("SELECT currentDatabase()") == "a-new one"
    assert connect(url, limits=True, write=False).command("SELECT 1") == 1
    client.command("DROP DATABASE `a-new one`")


def test_what_is_written_is_done_when_the_answer_comes(stand_in: str) -> None:
    client = connect(f"{stand_in}/esper")
    asked = "SELECT name, value FROM system.settings WHERE name IN {names:Array(String)}"
    wanted = {"async_insert": "0", "insert_deduplicate": "0", "lightweight_deletes_sync": "2"}
    found = client.query(asked, parameters={"names": [*wanted, "deduplicate_insert"]}).result_rows
    assert dict(found) == wanted | {"deduplicate_insert": "disable"}
    assert client.get_client_setting("session_id") is None


@pytest.mark.parametrize(("user", "limit"), [("default", True), ("careful", True), ("reader", False)])
def test_a_question_changes_nothing_whoever_asks(
    stand_in: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: str, limit: bool
) -> None:
    """``reader`` may set nothing, so that only the server's own limits hold."""
    with new_database(tmp_path, stand_in) as database:
        as_user(monkeypatch, user)
        questions = Questions(database.url)
        read = "SELECT getSetting('readonly') > 0, getSetting('max_result_rows') FROM system.one"
        rows = LIMITS["max_result_rows"] if limit else 0
        assert questions.answer(read, {}, "csv").splitlines()[1] == f"1,{rows}".encode()
        for query in (
            "INSERT INTO runs (run_id) VALUES ('x')",
            "DROP TABLE runs",
            "CREATE TABLE t (a Int8) ENGINE = Memory",
        ):
            with pytest.raises(
                AnalyticsError, match=r"readonly mode\. \(READONLY\); esper sql --write allows changes$"
            ):
                questions.answer(query, {}, "csv")


@pytest.mark.parametrize("user", ["reader", "careful"])
def test_a_user_who_may_only_read_is_told_so_before_anything_is_written(
    stand_in: str, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    url = f"{stand_in}/default"
    as_user(monkeypatch, user)
    assert f"user {user} may only read; name one that may write in ESPER_CLICKHOUSE_USERNAME" in refused(url)


def test_an_insert_whose_answer_is_lost_is_not_sent_again(stand_in: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{stand_in}/lost"
    client = connect(url)
    client.command("CREATE TABLE once (a Int8) ENGINE = MergeTree ORDER BY a")
    as_user(monkeypatch, "unlucky")
    unlucky = connect(url)
    with pytest.raises(AnalyticsError, match=r"the connection was lost .*; look at the server"), told(url):
        unlucky.insert("once", [(1,)], column_names=["a"])
    assert client.command("SELECT count() FROM once") == 1


def test_commands_use_a_server_as_they_use_the_embedded_engine(stand_in: str, tmp_path: Path) -> None:
    log = open_log(f"sqlite:///{tmp_path / 'log.db'}")
    story = Story(log, "run", "in")
    for step in (10, 20, 30):
        story.boundary(step)
    with new_database(tmp_path, stand_in) as database:
        command = [sys.executable, "-m", "esper", "sink", "--home", str(tmp_path)]
        environment = {**os.environ, "ESPER_ANALYTICS": database.url}
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment) as sink:
            deadline = time.monotonic() + 60
            while database.rows("SELECT count() FROM events") != [(4,)]:
                assert sink.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            sink.send_signal(signal.SIGTERM)
            assert sink.wait(20) == 0
        asked = esper(tmp_path, database.url, "sql", "SELECT step FROM boundaries ORDER BY step", "--format", "csv")
        assert (asked.returncode, asked.stdout, asked.stderr) == (0, '"step"\n10\n20\n30\n', "")
        wrong = esper(tmp_path, database.url, "sql", "SELECT nope FROM runs")
        assert (wrong.returncode, len(wrong.stderr.splitlines())) == (1, 1)
        assert "UNKNOWN_IDENTIFIER" in wrong.stderr
        assert "server response" not in wrong.stderr
        database.client.command("DELETE FROM boundaries WHERE step = 20")
        assert esper(tmp_path, database.url, "analytics", "check").returncode == 1
        assert json.loads(esper(tmp_path, database.url, "analytics", "rebuild", "--json").stdout)["records"] == 4
        assert esper(tmp_path, database.url, "analytics", "check").returncode == 0


def test_what_a_killed_sink_left_is_undone_over_http(stand_in: str, tmp_path: Path) -> None:
    log = open_log(f"sqlite:///{tmp_path / 'log.db'}")
    story = Story(log, "run", "in")
    story.boundary(10)
    story.measure(1, "loss", {step: float(step) for step in range(1, 200)})
    with new_database(tmp_path, stand_in) as database:
        Sink(database.client, log).catch_up()
        database.client.command("DELETE FROM telemetry_batches WHERE 1")
        database.client.command("DELETE FROM events WHERE type = 'BoundaryReached'")
        assert Sink(database.client, log).catch_up() == 2
        assert [each.table for each in audit(database.client, log) if not each.agree] == []
        assert database.rows("SELECT count() FROM measurements") == [(199,)]
