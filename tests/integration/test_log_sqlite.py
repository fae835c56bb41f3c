"""What the embedded log promises beyond the contract: its file, its errors, and processes that fork."""

from __future__ import annotations

import multiprocessing
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from esper.errors import Fenced, LogError, SequenceConflict, SequenceGap, UsageError
from esper.events.topics import ASSETS, RUNS, SIGNALS
from esper.log import open_log
from esper.log.headers import pack
from esper.log.port import Log
from esper.log.sqlite.database import VERSION
from esper.log.sqlite.log import SqliteLog
from tests.integration.test_log_contract import asset, command, event, read
from tests.support.services.adapters import ROOT


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "home" / "log.db"


@pytest.fixture
def log(path: Path) -> Iterator[Log]:
    log = open_log(f"sqlite:///{path}")
    yield log
    log.close()


def test_sqlite_is_without_the_wal_reset_bug() -> None:
    assert tuple(map(int, apsw.sqlite_lib_version().split("."))) > (3, 51, 2)


def test_the_file_is_made_on_first_use_in_a_private_folder(path: Path) -> None:
    log = open_log(f"sqlite:///{path}")
    assert not path.parent.exists()
    assert read(log, RUNS) == []
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with apsw.Connection(str(path)) as connection:
        assert connection.pragma("journal_mode") == "wal"
        assert connection.pragma("user_version") == VERSION
    log.close()
    connection.close()


def test_its_files_are_private_in_a_folder_that_is_not(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    log = open_log(f"sqlite:///{tmp_path}/log.db")
    log.open_writer("run").append([event("run", 1, 1)])
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    log.close()
    assert modes == dict.fromkeys(("log.db", "log.db-wal", "log.db-shm"), 0o600)


def test_a_record_with_damaged_headers_is_named_and_its_value_read(log: SqliteLog) -> None:
    log.open_writer("run").append([event("run", 1, 1)])
    (whole,) = log.read(RUNS)
    blob = pack(whole.record.headers)
    for place in range(blob.index(b"\n") + 1):
        damaged = bytearray(blob)
        damaged[place] ^= 0x80
        with log.database.transaction() as connection:
            connection.execute("UPDATE records SET headers = ?", (bytes(damaged),))
        (entry,) = log.read(RUNS)
        assert (entry.position, entry.record.value) == (whole.position, whole.record.value)
        assert "headers are damaged" in (entry.error or "")


def test_appends_are_synced_to_the_disk(log: SqliteLog) -> None:
    with log.database.session() as connection:
        assert connection.pragma("synchronous") == 2


def test_a_relative_url_is_relative_and_stays_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    log = open_log("sqlite:///here/log.db")
    monkeypatch.chdir("/")
    log.open_writer("run")
    assert (tmp_path / "here" / "log.db").is_file()
    log.close()


@pytest.mark.parametrize("url", ["sqlite://log.db", "sqlite:///", "log.db", ""])
def test_a_url_of_no_adapter_names_those_that_exist(url: str) -> None:
    with pytest.raises(UsageError, match="sqlite:///"):
        open_log(url)


def test_a_log_keeps_its_id(path: Path, log: SqliteLog) -> None:
    again = SqliteLog("again", path)
    assert log.log_id == again.log_id
    assert len(log.log_id) == 36
    again.close()


def test_a_signal_sent_again_has_the_position_of_the_first(log: Log) -> None:
    first = log.signal(command("run", "1"))
    log.signal(command("run", "2"))
    assert log.signal(command("run", "1")) == first
    with pytest.raises(SequenceConflict, match="nonce"):
        log.signal(command("run", "1", reason="another"))
    assert len(read(log, SIGNALS)) == 2


def test_a_log_of_a_newer_version_is_refused_and_left_alone(path: Path, log: Log) -> None:
    log.open_writer("run")
    log.close()
    with apsw.Connection(str(path)) as connection:
        connection.pragma("user_version", VERSION + 1)
    connection.close()
    newer = open_log(f"sqlite:///{path}")
    with pytest.raises(LogError, match=r"log\.db: a log of version 2.*upgrade"):
        newer.open_writer("run")
    newer.close()


def test_a_file_that_is_no_log_is_refused_and_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with apsw.Connection(str(other)) as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    before = other.read_bytes()
    log = open_log(f"sqlite:///{other}")
    with pytest.raises(LogError, match="not an Esper log"):
        log.open_writer("run")
    log.close()
    assert other.read_bytes() == before


def append_and_read(log: Log) -> None:
    log.open_writer("run").append([event("run", 2, 200)])
    read(log, RUNS)


def test_a_damaged_file_is_a_one_line_error(path: Path, log: Log) -> None:
    log.open_writer("run").append([event("run", 1, number, b"x" * 1000) for number in range(1, 200)])
    log.close()
    whole = path.read_bytes()
    for damaged in (b"no database" * 1000, whole[:100] + b"\xaa" * (len(whole) - 100), whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        broken = open_log(f"sqlite:///{path}")
        with pytest.raises(LogError, match=r"log\.db: damaged") as caught:
            append_and_read(broken)
        assert "\n" not in str(caught.value)
        broken.close()


def test_a_folder_that_cannot_be_made_is_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    log = open_log(f"sqlite:///{tmp_path}/file/log.db")
    with pytest.raises(LogError, match="file"):
        log.open_writer("run")
    log.close()


def test_another_file_in_the_logs_place_is_not_taken_for_it(path: Path, log: SqliteLog) -> None:
    """A thread has a connection of its own, which must not be to another log than the others'."""
    log.signal(command("run", "1"))
    for file in path.parent.glob("log.db*"):
        file.rename(path.parent / f"old-{file.name}")
    other = open_log(f"sqlite:///{path}")
    other.signal(command("run", "1"))
    other.close()
    errors: list[Exception] = []

    def reading() -> None:
        try:
            log.topic_id(SIGNALS)
        except LogError as error:
            errors.append(error)

    thread = threading.Thread(target=reading)
    thread.start()
    thread.join()
    assert "another file has taken its place" in str(errors[0])


def test_a_closed_log_says_so(log: Log) -> None:
    writer = log.open_writer("run")
    log.close()
    with pytest.raises(LogError, match="closed"):
        writer.append([event("run", 1, 1)])


def test_another_process_that_writes_too_long_is_an_error_that_can_be_repeated(
    path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esper.log.sqlite.database.LOCK_TIMEOUT", 0.1)
    writer = log.open_writer("run")
    rival = apsw.Connection(str(path))
    rival.execute("BEGIN IMMEDIATE")
    with pytest.raises(LogError, match=r"log\.db: another process"):
        writer.append([event("run", 1, 1)])
    assert read(log, RUNS) == []
    rival.execute("ROLLBACK")
    rival.close()
    writer.append([event("run", 1, 1)])
    assert read(log, RUNS) == [event("run", 1, 1)]


def test_a_full_database_is_an_error_that_can_be_repeated(log: SqliteLog) -> None:
    writer = log.open_writer("run")
    writer.append([event("run", 1, 1)])
    with log.database.session() as connection:
        connection.pragma("max_page_count", connection.pragma("page_count") + 4)
    large = [asset("blueprint"), event("run", 1, 2, b"x" * 100_000)]
    with pytest.raises(LogError, match="disk is full"):
        writer.append(large)
    assert read(log, ASSETS) == []
    with log.database.session() as connection:
        connection.pragma("max_page_count", 1 << 30)
    writer.append(large)
    assert read(log, RUNS) == [event("run", 1, 1), large[1]]


def test_an_append_that_fails_in_its_middle_is_rolled_back(log: Log) -> None:
    writer = log.open_writer("run")
    with pytest.raises(TypeError):
        writer.append([event("run", 1, 1), asset("a", object())])  # type: ignore[arg-type]
    assert read(log, RUNS) == read(log, ASSETS) == []
    writer.append([event("run", 1, 1), asset("a")])
    assert read(log, RUNS) == [event("run", 1, 1)]


FULL_DISK = """
import resource, sys
from pathlib import Path
from esper.errors import LogError
from esper.log import open_log
from tests.integration.test_log_contract import event, asset, read
path = Path(sys.argv[1])
log = open_log(f"sqlite:///{path}")
writer = log.open_writer("run")
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
done, failures = 0, 0
for limit in (300_000, 400_000, 1_000_000, hard):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    while done < 400:
        try:
            writer.append([event("run", 1, done + 1, b"x" * 5000), asset("a", b"%d" % (done + 1))])
        except LogError as error:
            assert "log.db" in str(error) and "space" in str(error) and "\\n" not in str(error), error
            failures += 1
            assert len(read(log, "esper.runs", "run")) == done
            break
        done += 1
print(done, failures, flush=True)
"""


def test_a_full_disk_is_an_error_and_nothing_is_lost(path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, path], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "400 3\n"
    log = open_log(f"sqlite:///{path}")
    assert [record.sequence for record in read(log, RUNS, "run")] == list(range(1, 401))
    assert [record.value for record in read(log, ASSETS)] == [b"%d" % number for number in range(1, 401)]
    log.close()


@pytest.fixture
def failing_after_commit() -> Iterator[list[str]]:
    """While the list is not empty, commits take effect and then report an error."""
    failures: list[str] = []

    def after_commit(connection: apsw.Connection, database: str, pages: int) -> int:
        if failures:
            raise apsw.IOError(failures.pop())
        return apsw.SQLITE_OK

    def hook(connection: apsw.Connection) -> None:
        connection.set_wal_hook(after_commit)

    apsw.connection_hooks.append(hook)
    yield failures
    apsw.connection_hooks.remove(hook)


def test_a_commit_that_reports_an_error_is_not_written_twice(log: Log, failing_after_commit: list[str]) -> None:
    writer = log.open_writer("run")
    writer.append([event("run", 1, 1)])
    failing_after_commit.append("planted")
    last = writer.append([event("run", 1, 2), event("run", 1, 3), asset("a")])
    assert failing_after_commit == []
    assert last == list(log.read(RUNS))[-1].position
    writer.append([event("run", 1, 4)])
    assert [record.sequence for record in read(log, RUNS)] == [1, 2, 3, 4]
    assert len(read(log, ASSETS)) == 1


@pytest.mark.parametrize("records", [[event("run", 1, 1), asset("a")], [asset("a"), asset("a")]])
def test_a_commit_of_unknown_fate_is_looked_up_when_repeated(
    log: Log, failing_after_commit: list[str], monkeypatch: pytest.MonkeyPatch, records: list[object]
) -> None:
    def unreadable(*_: object) -> None:
        raise LogError("planted: cannot be read now")

    writer = log.open_writer("run")
    failing_after_commit.append("planted")
    with monkeypatch.context() as patch:
        patch.setattr(writer, "_committed", unreadable)
        with pytest.raises(LogError, match="planted"):
            writer.append(records)  # type: ignore[arg-type]
    with pytest.raises(SequenceGap, match="committed after all"):
        writer.append([asset("b")] * 2)
    last = writer.append(records)  # type: ignore[arg-type]
    assert last == next((entry.position for entry in log.read(RUNS)), None)
    assert len(read(log, RUNS)) + len(read(log, ASSETS)) == 2


def test_a_rival_that_came_while_a_commit_failed_is_named(
    log: Log, failing_after_commit: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = log.open_writer("run")
    found = writer._committed  # type: ignore[attr-defined]

    def after_a_rival(records: object) -> object:
        log.open_writer("run").append([event("run", 2, 2), asset("a")])
        return found(records)

    monkeypatch.setattr(writer, "_committed", after_a_rival)
    failing_after_commit.append("planted")
    with pytest.raises(Fenced, match="epoch 2"):
        writer.append([event("run", 1, 1)])
    assert [record.sequence for record in read(log, RUNS)] == [1, 2]


def _append(url: str, run: str) -> None:
    log = open_log(url)
    _append_all(log, run)
    log.close()


def _append_all(log: Log, run: str) -> None:
    writer = log.open_writer(run)
    for number in range(1, 31):
        writer.append([event(run, 1, number)])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("shared", [True, False])
def test_a_child_may_be_forked_while_threads_append(log: Log, shared: bool) -> None:
    """A data loader's workers are; with the parent's file locks in mind they would take none of their own."""
    threads = [threading.Thread(target=_append_all, args=(log, f"thread-{number}")) for number in range(2)]
    for thread in threads:
        thread.start()
    context = multiprocessing.get_context("fork")
    target: Callable[..., None] = _append_all if shared else _append
    children = [context.Process(target=target, args=(log if shared else log.url, f"fork-{n}")) for n in range(3)]
    for process in children:
        process.start()
    for worker in (*children, *threads):
        worker.join(60)  # type: ignore[attr-defined]
    assert [process.exitcode for process in children] == [0] * 3
    assert len(read(log, RUNS)) == 150
    with apsw.Connection(str(log.url.removeprefix("sqlite:///"))) as connection:
        assert connection.pragma("integrity_check") == "ok"
    connection.close()
