"""What Esper makes is for its owner alone, whatever the umask; ``esper doctor`` tells of what is not."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from esper.cli.main import main
from esper.cli.operating import doctor
from esper.dev import Cluster
from esper.dev.jars import java, maven
from esper.errors import EsperError
from tests.integration.test_cli_reading import QUICK
from tests.support.services.brokers import missing
from tests.support.services.workers import Worker


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A folder that somebody made for it, which all may read, as the umask says."""
    before = os.umask(0o022)
    try:
        (tmp_path / "home").mkdir()
        yield tmp_path / "home"
    finally:
        os.umask(before)


def esper(home: Path, *words: object) -> None:
    """Run a command as a process; it must succeed."""
    command = [sys.executable, "-m", "esper", *map(str, words), "--home", str(home)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr


def exposed(folder: Path) -> dict[str, str]:
    """What others than the owner may get at in ``folder``, with its mode."""
    found = {}
    for path in folder.iterdir():
        mode = path.lstat().st_mode
        if mode & 0o077:
            found[str(path)] = f"{stat.S_IMODE(mode):04o}"
            if path.is_dir():
                found |= exposed(path)
    return found


def below(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


def test_a_home_is_for_its_owner_alone(home: Path) -> None:
    esper(home, "train", "--task", "digits", "--steps", 100, *QUICK)
    esper(home, "sql", "SELECT count() FROM events")
    assert {"log.db", "artifacts", "clickhouse", "clickhouse.lock"} <= below(home)
    assert exposed(home) == {}
    made = home / "deep" / "er"
    esper(made, "train", "--task", "digits", "--steps", 25, *QUICK)
    assert exposed(home) == {}


@pytest.fixture
def own_broker(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The log on a broker in the home's folder dev, as ``esper dev up`` makes it."""
    try:
        java(), maven()
    except EsperError as error:
        missing(str(error))
    cluster = Cluster(home / "dev")
    try:
        found = cluster.up()
        monkeypatch.setenv("ESPER_REGISTRY", found.registry)
        yield found.log
    finally:
        cluster.down()


@pytest.mark.slow
def test_a_home_whose_log_is_on_kafka_is_for_its_owner_alone(home: Path, own_broker: str) -> None:
    esper(home, "topics", "init", "--log", own_broker)
    esper(home, "train", "--task", "digits", "--steps", 100, "--log", own_broker, *QUICK)
    esper(home, "sql", "SELECT count() FROM events", "--log", own_broker)
    worker = Worker(own_broker, home.parent, "one", "--data", home / "worker" / "one")
    try:
        worker.await_ready()
    finally:
        worker.close()
    assert {"artifacts", "clickhouse", "dev", "worker"} <= below(home)
    assert list((home / "dev").rglob("*.log"))
    assert exposed(home) == {}


@pytest.fixture
def privacy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[dict[str, str]]]:
    """``privacy(*words)``: what doctor finds of it."""
    monkeypatch.setattr("esper.cli.operating.doctor._LOOKS", (doctor._private,))

    def found(*words: object) -> list[dict[str, str]]:
        capsys.readouterr()
        assert main(["doctor", "--json", *map(str, words)]) == 0
        findings: list[dict[str, str]] = json.loads(capsys.readouterr().out)["findings"]
        return findings

    return found


def test_doctor_names_what_is_open_to_others_and_how_to_close_it(home, privacy):
    (home / "log.db").touch(0o644)
    (home / "log.db-wal").touch(0o600)
    (home / "notes of mine").touch(0o644)
    (home / "artifacts" / "runs").mkdir(parents=True)
    (home / "clickhouse").mkdir(0o700)
    (home / "clickhouse" / "data").touch(0o644)
    (home / "link").symlink_to(home / "log.db")
    [finding] = privacy("--home", home)
    assert finding == {
        "name": "privacy",
        "level": "warning",
        "found": f"others than the owner get at {home} (0755), {home}/artifacts (0755), {home}/artifacts/runs (0755) "
        "and 1 more",
        "remedy": f"chmod -R go-rwx {home}",
    }
    subprocess.run(finding["remedy"], shell=True, check=True)
    assert privacy("--home", home) == [
        {"name": "privacy", "level": "ok", "found": f"nobody but its owner gets at {home}", "remedy": ""}
    ]


def test_doctor_looks_at_a_log_and_a_warehouse_that_lie_elsewhere(home, tmp_path, privacy, monkeypatch):
    home.chmod(0o700)
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    for name in ("my.db", "my.db-shm", "others.db"):
        (elsewhere / name).touch(0o640)
    monkeypatch.setenv("ESPER_ANALYTICS", f"chdb:///{tmp_path}/warehouse")
    (tmp_path / "warehouse").mkdir()
    tmp_path.chmod(0o755)
    log, warehouse = privacy("--home", home, "--log", f"sqlite:///{elsewhere}/my.db")
    assert log["found"] == f"others than the owner get at {elsewhere}/my.db (0640), {elsewhere}/my.db-shm (0640)"
    assert log["remedy"] == f"chmod -R go-rwx '{elsewhere}/my.db' '{elsewhere}/my.db-shm'"
    assert warehouse["remedy"] == f"chmod -R go-rwx {tmp_path}/warehouse"


def test_doctor_has_nothing_to_say_of_a_home_that_is_not_there_yet(tmp_path, privacy):
    assert [each["level"] for each in privacy("--home", tmp_path / "nowhere")] == ["ok"]
    assert not (tmp_path / "nowhere").exists()
