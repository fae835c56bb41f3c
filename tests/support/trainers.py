"""Trainers to be killed: started by a zygote, watched through the log, compared by their history."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from esper.artifacts import open_store
from esper.errors import LogError
from esper.events.runs import CheckpointCommitted, CheckpointRetired, RunResumed
from esper.events.topics import RUNS
from esper.integrity import check
from esper.log import open_log
from esper.log.port import Position
from tests.support.logs.runlog import events, log_url
from tests.support.paths import PROGRAMS, ROOT

LONGEST = 240.0  # seconds that any trainer of these tests may take


class Zygote:
    """Starts trainers without importing torch each time."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(PROGRAMS), str(ROOT)])
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAMS / "zygote.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )

    def start(self, program: str, arguments: list[Any], output: Path, **environment: str) -> Trainer:
        """Start a program whose home is the folder of ``output``."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        output.touch()
        environment |= {"ESPER_LOG": log_url(output.parent), "ESPER_REGISTRY": os.environ.get("ESPER_REGISTRY", "")}
        request = {"program": program, "arguments": arguments, "output": str(output), "environment": environment}
        before = output.stat().st_size
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Trainer(int(self._process.stdout.readline()), output, before)

    def close(self) -> None:
        with self._process:  # closes its pipes
            self._process.kill()


class Trainer:
    """One trainer process."""

    def __init__(self, pid: int, output: Path, offset: int) -> None:
        self.pid, self._output, self._offset = pid, output, offset

    @property
    def output(self) -> str:
        return self._output.read_text()[self._offset :]

    def alive(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def signal(self, number: int) -> None:
        if self.alive():
            os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self.wait()

    def wait(self, seconds: float = LONGEST) -> None:
        deadline = time.monotonic() + seconds
        while self.alive():
            assert time.monotonic() < deadline, f"trainer {self.pid} does not end:\n{self.output}"
            time.sleep(0.01)

    def struck(self) -> None:
        """Wait until it was killed by the fault it was started with; fails if it ended in another way."""
        self.wait()
        last = (self.output.strip().splitlines() or [""])[-1]
        assert last.startswith("SIGKILL "), self.output

    def exit_status(self) -> int:
        """The status with which it ended; fails if it was killed."""
        self.wait()
        last = self.output.strip().splitlines()[-1]
        assert last.startswith("exit "), self.output
        return int(last.removeprefix("exit "))


class Progress:
    """How far a run has come, as its log tells."""

    def __init__(self, home: Path, run_id: str) -> None:
        self._log, self._run_id = open_log(log_url(home)), run_id
        self._after: Position | None = None
        self.sequence = 0

    def look(self) -> int:
        """The run's last sequence number, as far as it can be read now."""
        with suppress(LogError):
            for entry in self._log.read(RUNS, key=self._run_id, after=self._after):
                self._after, self.sequence = entry.position, entry.record.sequence or 0
        return self.sequence

    def wait(self, trainer: Trainer, sequence: int) -> None:
        """Wait until the run has come as far as ``sequence``; fails if the trainer ends before."""
        deadline = time.monotonic() + LONGEST
        while self.look() < sequence:
            assert trainer.alive(), f"ended at {self.sequence} of {sequence}:\n{trainer.output}"
            assert time.monotonic() < deadline, f"at {self.sequence} of {sequence} after {LONGEST} s"
            time.sleep(0.005)

    def close(self) -> None:
        self._log.close()


def rerun(home: Path, run_id: str) -> int:
    """How many steps the resumes of a run had to run again before the first new one, as far as the log can tell."""
    steps, last = 0, 0
    for event in events(home, run_id):
        if isinstance(event.content, RunResumed):
            steps += max(0, last - event.content.checkpoint)
        else:
            last = max(last, getattr(event.content, "step", 0))
    return steps


def assert_whole(home: Path, run_id: str) -> None:
    """No id twice on the log, and every file of a checkpoint that was not retired is there."""
    ids = raw_ids(home, run_id)
    assert len(ids) == len(set(ids))
    assert manifests(home, run_id) >= committed(home, run_id)
    assert chunks(home, run_id) >= needed_chunks(home, run_id)


def assert_nothing_left(home: Path, run_id: str) -> None:
    """All files are whole, and those that live events name."""
    assert_whole(home, run_id)
    assert manifests(home, run_id) == committed(home, run_id)
    log = open_log(log_url(home))
    report = check(log, open_store(f"file:///{home / 'artifacts'}"), run_id)
    log.close()
    assert report.findings == []
    assert report.left_over == {}


def committed(home: Path, run_id: str) -> set[str]:
    """Manifests of the checkpoints that the log says are there."""
    contents = [event.content for event in events(home, run_id)]
    retired = {each.manifest for each in contents if isinstance(each, CheckpointRetired)}
    return {each.manifest for each in contents if isinstance(each, CheckpointCommitted)} - retired


def manifests(home: Path, run_id: str) -> set[str]:
    """Manifests that are on disk."""
    return {path.stem for path in (home / "artifacts" / "runs" / run_id / "manifests").glob("*.json")}


def needed_chunks(home: Path, run_id: str) -> set[str]:
    """Chunks that the committed checkpoints refer to."""
    folder = home / "artifacts" / "runs" / run_id / "manifests"
    found = [json.loads((folder / f"{manifest}.json").read_text()) for manifest in committed(home, run_id)]
    return {chunk for each in found for part in ("tensors", "cursor_tensors") for _, chunk in each[part].values()}


def chunks(home: Path, run_id: str) -> set[str]:
    """Chunks that are on disk."""
    return {path.stem for path in (home / "artifacts" / "runs" / run_id / "chunks").glob("*.safetensors")}


def raw_ids(home: Path, run_id: str) -> list[str]:
    """The ids of all records of a run, as they lie on the log."""
    log = open_log(log_url(home))
    try:
        return [dict(entry.record.headers)["ce_id"].decode() for entry in log.read(RUNS, key=run_id)]
    finally:
        log.close()
