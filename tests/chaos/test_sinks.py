"""``kill -9`` of a sink anywhere: afterwards every row is there once, and every rollup is what its rows give."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from esper.log import open_log
from tests.support.runs.stories import Story
from tests.support.services.adapters import ROOT

KILLS = 8
PROGRAM = """
import os, re, signal, sys, threading, time
from clickhouse_connect.driver._chdbclient import ChdbClient
from esper.cli.main import main
from esper.nissa.sink import process, sink
from esper.nissa.sink.pacing import Bounds

process.INTERVAL, sink.EVENTS, sink.BATCHES = 0.02, Bounds(5, 20), Bounds(2, 5)
when, where = sys.argv[1].split(" ", 1) if sys.argv[1] else ("", "$^")
die = lambda: os.kill(os.getpid(), signal.SIGKILL)

def struck(name, right):
    def call(self, *args, **more):
        if not re.match(where, f"{name} {args[0]}"):
            return right(self, *args, **more)
        if when == "during":
            threading.Timer(0.002, die).start()
        if when == "before":
            die()
        right(self, *args, **more)
        die()
    return call

for name in ("command", "insert", "insert_arrow", "raw_insert"):
    setattr(ChdbClient, name, struck(name, getattr(ChdbClient, name)))
sys.exit(main(sys.argv[2:]))
"""


@contextmanager
def command(home: Path, *arguments: str, kill: str = "") -> Iterator[subprocess.Popen[str]]:
    """A command that writes little at a time and is killed where ``kill`` says: "after", "before" or "during" what the
    client is asked to do."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ESPER_")}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, kill, *arguments, "--home", str(home)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def struck(home: Path, *arguments: str, kill: str) -> None:
    """Run a command that is killed where ``kill`` says; fails if it never comes there."""
    with command(home, *arguments, kill=kill) as process:
        _, said = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, (kill, said)


def check(home: Path) -> dict[str, int]:
    """Have ``esper analytics check`` agree; the rows that it found in each table."""
    with command(home, "analytics", "check", "--json") as process:
        told, said = process.communicate(timeout=120)
    assert told, said
    found: dict[str, Any] = json.loads(told)
    assert found["agree"], [each for each in found["tables"] if not each["agree"]]
    assert process.returncode == 0
    return {table: sum(each["found"] for each in found["tables"] if each["table"] == table) for table in TABLES}


TABLES = ("events", "boundaries", "telemetry", "telemetry_batches", "telemetry_minutes", "telemetry_epochs")


class Writing(threading.Thread):
    """Writes runs, and their measurements, until told to stop."""

    def __init__(self, home: Path, batches: int = 1 << 30) -> None:
        super().__init__(daemon=True)
        self._home, self._batches, self._stopped = home, batches, threading.Event()
        self.rows = self.boundaries = self.written = 0

    def run(self) -> None:
        log = open_log(f"sqlite:///{self._home / 'log.db'}")
        stories = [Story(log, f"run{number}", "in", "out") for number in range(3)]
        for story in stories:
            story.birth(1, "in#1", "mlp@1", parameters=10, seconds=0.1)
        for number in range(self._batches):
            if self._stopped.is_set():
                break
            step = 1 + 100 * number
            for story in stories:
                story.measure(1, "loss", {step + each: float(each) for each in range(100)})
                story.measure(1, "gradient_norm", {step + each: 1.0 / (1 + each) for each in range(100)}, "in#1")
                story.boundary(step + 99)
            self.rows, self.boundaries, self.written = self.rows + 600, self.boundaries + 3, self.written + 9
            time.sleep(0.02 if self._batches > 100 else 0)
        log.close()

    def stop(self) -> None:
        self._stopped.set()
        self.join()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home whose log holds three runs, on several partitions, with a seed and measurements of several minutes."""
    writing = Writing(tmp_path, 6)
    writing.start()
    writing.join()
    return tmp_path


@pytest.mark.chaos
@pytest.mark.slow
def test_a_sink_that_is_killed_anywhere_leaves_no_row_out_and_none_twice(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    moments, writing = random.Random(seed), Writing(tmp_path, 600)  # more than a check has time for is no harder
    writing.start()
    socket = tmp_path / "clickhouse.sock"
    for _ in range(KILLS):
        socket.unlink(missing_ok=True)
        with command(tmp_path, "sink") as process:
            while not socket.exists():
                assert process.poll() is None, process.communicate()
                time.sleep(0.01)
            time.sleep(moments.random() * 1.5)
            process.kill()
    writing.stop()
    found = check(tmp_path)
    assert found["telemetry"] == writing.rows
    assert found["boundaries"] == writing.boundaries
    assert found["telemetry_epochs"] > 0


BATCH = ["insert\\w* runs", "insert\\w* seed_transitions", "insert\\w* boundaries", "insert\\w* events"]


@pytest.mark.chaos
@pytest.mark.slow
def test_a_kill_between_the_inserts_of_a_batch_is_mended_by_the_next_sink(home: Path) -> None:
    """Each of them begins where the one before it was killed."""
    for where in BATCH:
        struck(home, "sink", kill=f"after {where}")
    struck(home, "sink", kill="during insert\\w* telemetry$")
    struck(home, "sink", kill="after insert\\w* telemetry$")
    struck(home, "sink", kill="during insert\\w* telemetry_batches")
    assert check(home)["telemetry"] == 3600


UNDOING = [
    "after command CREATE TABLE touched",
    "during command DELETE FROM telemetry_minutes",
    "after command DELETE FROM telemetry_minutes",
    "after command INSERT INTO telemetry_minutes",
    "during command INSERT INTO telemetry_epochs",
    "before command DELETE FROM telemetry WHERE",
    "during command DELETE FROM telemetry WHERE",
]


@pytest.mark.chaos
@pytest.mark.slow
def test_a_kill_while_another_one_is_undone_is_undone_by_the_next(home: Path) -> None:
    struck(home, "sink", kill="after insert\\w* telemetry$")
    for where in UNDOING:
        struck(home, "sink", kill=where)
        if "during" in where:  # which may have done all of it
            struck(home, "sink", kill="after insert\\w* telemetry$")
    assert check(home)["telemetry"] == 3600


REBUILDING = [
    "after insert undoing",
    "after command DELETE FROM boundaries",
    "during command DELETE FROM events",
    "after command DELETE FROM telemetry_minutes WHERE .*HAVING",
    "after command DELETE FROM telemetry WHERE",
    "during command DELETE FROM telemetry_batches",
    "before command DELETE FROM undoing",
    "after insert\\w* telemetry$",
]


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.parametrize("where", REBUILDING)
def test_a_rebuild_that_is_killed_is_finished_by_whoever_comes_next(home: Path, where: str) -> None:
    before = check(home)
    struck(home, "analytics", "rebuild", kill=where)
    assert check(home) == before


@pytest.mark.chaos
@pytest.mark.slow
def test_a_migration_that_is_killed_is_finished_by_the_next(home: Path) -> None:
    for where in (
        "CREATE TABLE IF NOT EXISTS runs",
        "CREATE VIEW",
        "CREATE MATERIALIZED",
        "CREATE TABLE IF NOT EXISTS logs",
    ):
        struck(home, "sink", kill=f"after command {where}")
    assert check(home)["telemetry"] == 3600
