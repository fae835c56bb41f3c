"""Homes where nothing can be written, on read-only media and in folders of others: every command that reads reads them,
and says what it says of the same home where it may write."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from esper.cli.main import main
from esper.client.runs import connect
from esper.events.runs import RunPaused, RunResumed
from esper.log import open_log
from esper.settings import log_url
from tests.integration.test_cli_reading import QUICK, _record
from tests.support.command import spawn, wait_until
from tests.support.logs.foreign import inject
from tests.support.paths import PROGRAMS
from tests.support.runs.histories import ENVIRONMENT as THERE
from tests.support.runs.histories import History

READS = PROGRAMS / "reads.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
ANEW = "the tables are made anew from the log in a temporary folder"
STATES = ("shut down", "killed", "killed, without -shm")
# Root may write in any folder, unless it gives that right away.
NOT_MIGHTY = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
MOUNT = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'


def _train(home: Path, run_id: str, steps: int) -> None:
    words = ["--run-id", run_id, "--steps", str(steps), "--home", str(home), *QUICK]
    assert main(["train", "--task", "digits", *words]) == 0


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two runs that ended, and one whose trainer was killed while its seed lived."""
    home = tmp_path_factory.mktemp("original") / "home"
    _train(home, "done", 200)
    _train(home, "other", 50)
    long = ["--run-id", "unfinished", *QUICK, "--set", "training.steps=100000"]
    left = home.with_name("left")
    with connect(home) as connection:
        with spawn(home, "train", "--task", "digits", "--steps", "100000", *long) as trainer:
            wait_until(lambda: "unfinished" in {run.run_id for run in connection.runs()}, "the run's begin")
            wait_until(lambda: connection.run("unfinished").seeds, "a seed's birth")
            os.killpg(trainer.pid, signal.SIGKILL)
        shutil.copytree(home, left)  # before the log is closed: whoever closes it last empties -wal
    assert (left / "log.db-wal").stat().st_size > 0
    return left


@pytest.fixture(params=STATES)
def home(original: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A copy of it, as its last process left it."""
    folder = tmp_path / "home"
    shutil.copytree(original, folder)
    if request.param == "shut down":
        assert main(["sql", "SELECT 1", "--home", str(folder)]) == 0
        assert {each.name for each in folder.glob("log.db*")} == {"log.db"}
    elif request.param == "killed, without -shm":
        (folder / "log.db-shm").unlink()
    yield folder
    for each, _, _ in os.walk(folder):
        Path(each).chmod(0o700)


@pytest.fixture
def elsewhere(tmp_path: Path) -> str:
    """Another log, with a run that the home does not have."""
    log = open_log(log_url(tmp_path / "elsewhere"))
    log.open_writer("third").append([_record("third", STARTED, 1, 1)])
    log.close()
    return log.url


STARTED = History().events[0].content
RESUMED = RunResumed(checkpoint=0, inexact=False, environment=THERE, notes=())


def _mounted(home: Path, *command: str) -> list[str]:
    """``command`` where ``home`` is mounted read-only."""
    return ["unshare", "--mount", "sh", "-c", MOUNT, str(home), *command]


def _closed(home: Path, *command: str) -> list[str]:
    """``command`` where nobody may write in ``home``."""
    for folder, _, names in os.walk(home, topdown=False):
        for each in (*(Path(folder, name) for name in names), Path(folder)):
            each.chmod(each.stat().st_mode & 0o555)
    return [*NOT_MIGHTY, *command]


def _ways(folder: Path) -> list[Callable[..., list[str]]]:
    can_mount = subprocess.run(_mounted(folder, "true"), capture_output=True, check=False).returncode == 0
    return [_mounted, _closed] if can_mount else [_closed]


def _tree(home: Path) -> dict[str, tuple[int, int]]:
    return {str(each.relative_to(home)): (each.stat().st_size, each.stat().st_mtime_ns) for each in home.rglob("*")}


def _read(command: list[str]) -> dict[str, list[Any]]:
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, list[Any]] = json.loads(done.stdout)
    return told


@pytest.mark.slow
def test_every_command_that_reads_says_the_same_where_nothing_can_be_written(
    home: Path, elsewhere: str, tmp_path: Path
) -> None:
    reads = [sys.executable, str(READS), str(home), str(tmp_path)]
    before, told = _tree(home), []
    for way in _ways(tmp_path):
        told.append(_read(way(home, *reads, elsewhere)))
        assert _tree(home) == before
        (tmp_path / "copy.db").unlink()
    for folder, _, _ in os.walk(home):
        Path(folder).chmod(0o700)
    here = _read([*reads, ""])
    assert "unfinished" in here["runs"][1]
    for there in told:
        for command, (code, out, err) in there.items():
            if command in here:
                assert [code, out] == here[command][:2], command
                assert err == here[command][2] or (err.count("\n") == 1 and ANEW in err), command
            else:
                assert code in (1, 2), command
                assert (err.count("\n"), f"esper: {home}" in err) == (1, True), (command, err)


@pytest.fixture
def idle(tmp_path: Path) -> Path:
    """A home with a run that has begun, and no process."""
    if _mounted not in _ways(tmp_path):
        pytest.skip("nothing can be mounted here")
    home = tmp_path / "home"
    log = open_log(log_url(home))
    writer = log.open_writer("run")
    paused = _record("run", RunPaused(step=0, reason="tea"), writer.epoch, 2)
    writer.append([_record("run", STARTED, writer.epoch, 1), paused])
    log.close()
    return home


HELD = """
import sys
from pathlib import Path
from esper.errors import LogError
from esper.log.sqlite.database import Database

database = Database(Path(sys.argv[1]) / "log.db")
count = "SELECT count(*) FROM records"
try:
    with database.session() as connection:
        print(connection.execute(count).get, flush=True)
        sys.stdin.readline()
except LogError as error:
    print(error, flush=True)
with database.session() as connection:
    print(connection.execute(count).get, flush=True)
"""


def test_what_others_write_meanwhile_is_seen_or_told_of_but_never_half_of_it(idle: Path) -> None:
    command = _mounted(idle, sys.executable, "-c", HELD, str(idle))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        assert reader.stdout.readline() == "2\n"
        log = open_log(log_url(idle))
        writer = log.open_writer("run")
        writer.append([_record("run", RunPaused(step=1, reason="tea"), writer.epoch, 3)])
        log.close()  # which moves it from -wal into the file
        print(file=reader.stdin, flush=True)
        told = f"{idle}/log.db: somebody wrote to it while it was read, unseen from here; try again\n"
        assert reader.stdout.readline() == told
        assert reader.stdout.readline() == "3\n"


def test_a_run_is_followed_through_a_read_only_mount(idle: Path) -> None:
    command = _mounted(idle, sys.executable, "-m", "esper", "events", "run", "--follow", "--home", str(idle))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
        try:
            assert reader.stdout is not None
            assert "RunStarted" in reader.stdout.readline()
            assert "reason=tea" in reader.stdout.readline()
            log = open_log(log_url(idle))
            writer = log.open_writer("run")
            for sequence, content in ((3, RESUMED), (4, RunPaused(step=1, reason="cake"))):
                writer.append([_record("run", content, writer.epoch, sequence)])
                assert type(content).__name__ in reader.stdout.readline()
            log.close()
        finally:
            reader.kill()


def test_a_record_that_cannot_be_read_is_passed_over_where_no_dead_letter_can_be_written(idle: Path) -> None:
    inject(log_url(idle), "esper.signals", "run", b"hello")
    command = [
        sys.executable,
        "-m",
        "esper",
        "sql",
        "SELECT count() FROM events",
        "--format",
        "csv",
        "--home",
        str(idle),
    ]
    done = subprocess.run(_mounted(idle, *command), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "no dead letter: " in done.stderr
    assert "Traceback" not in done.stderr


def test_doctor_says_that_such_a_home_can_only_be_read(idle: Path) -> None:
    command = [sys.executable, "-m", "esper", "doctor", "--json", "--home", str(idle)]
    done = subprocess.run(_mounted(idle, *command), capture_output=True, text=True, check=False)
    found = {each["name"]: each for each in json.loads(done.stdout)["findings"]}
    assert (done.returncode, found["log"]["level"], found["home"]["level"]) == (0, "ok", "warning")
    assert found["home"]["found"] == f"{idle} can only be read: Read-only file system"
    assert "to train, choose another with --home" in found["home"]["remedy"]
