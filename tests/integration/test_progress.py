"""What is seen of a run while it trains: the line of a program of one's own, and ``esper watch``; on real terminals."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from esper.kasmina.seed.stages import Stage
from esper.tamiyo.advice.outlook import outlook
from esper.tamiyo.run.state import RunState
from tests.support.command import runner, wait_until
from tests.support.logs.runlog import events
from tests.support.paths import ROOT
from tests.support.runs.histories import simulate

OWN = ("-c", "import runpy, sys; sys.argv.pop(0); runpy.run_path(sys.argv[0])", str(ROOT / "tests/programs/own.py"))
LINE = re.compile(r"step \d+  [\d.]+ steps/s  loss [\d.]+  \d live seeds?  \S+")


class Terminal:
    """A program whose stdout and stderr are a terminal of 100 columns."""

    def __init__(self, *words: object) -> None:
        ours, theirs = pty.openpty()
        self._screen = ours
        environment = {**os.environ, "COLUMNS": "100", "LINES": "40", "TERM": "xterm", "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, *map(str, words)], stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=ROOT
        )
        os.close(theirs)

    def all(self) -> str:
        """What was on the screen, once the program has ended; without colours."""
        parts = []
        while True:
            try:
                part = os.read(self._screen, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            parts.append(part)
        os.close(self._screen)
        assert self.process.wait(60) == 0, b"".join(parts)
        return re.sub(r"\x1b\[[0-9;]*m", "", b"".join(parts).decode())


def test_a_program_of_ones_own_shows_one_line_on_a_terminal_and_what_it_prints_stays_whole(tmp_path: Path) -> None:
    screen = Terminal(*OWN, tmp_path).all()
    assert len(LINE.findall(screen)) >= 3
    assert re.search(r"1 live seed  \d#1 is (judged|audited) from step \d+ on", screen)
    for epoch in range(12):
        assert re.search(rf"(^|\x1b\[2K|\x1b\[\?25l)epoch {epoch}\r\n", screen, re.MULTILINE)
    assert screen.endswith("\x1b[2K")  # the line is gone at the end


@pytest.mark.parametrize("printed", ["saving to [/home/x] ", "\rdone 3/4"])
def test_a_program_that_draws_on_a_line_itself_has_the_terminal_from_then_on(tmp_path: Path, printed: str) -> None:
    program = tmp_path / "program.py"
    own = (ROOT / "tests/programs/own.py").read_text()
    program.write_text(own.replace('print("epoch", epoch)', f'print({printed!r}, end="", flush=True)'))
    screen = Terminal(*OWN[:-1], program, tmp_path / "home").all()
    assert screen.count(printed) == 12
    assert "steps/s" not in screen[screen.index(printed) :]


def test_what_was_begun_on_the_other_stream_is_not_lost_when_the_line_goes(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    own = (ROOT / "tests/programs/own.py").read_text()
    halves = 'sys.stderr.write(f"half of {epoch}, "); print(f"\\rbar {epoch}", end="", flush=True)'
    program.write_text(own.replace('print("epoch", epoch)', halves))
    screen = Terminal(*OWN[:-1], program, tmp_path / "home").all()
    for epoch in range(12):
        assert f"half of {epoch}, " in screen
        assert f"bar {epoch}" in screen


def test_it_is_silent_when_it_is_told_to_be(tmp_path: Path) -> None:
    assert "steps/s" not in Terminal(*OWN, tmp_path, "quiet").all()


def test_it_is_silent_where_there_is_no_terminal(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, *OWN, tmp_path], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines() == [f"epoch {epoch}" for epoch in range(12)]
    assert "steps/s" not in done.stderr


def test_a_run_is_watched_until_it_is_over(tmp_path: Path) -> None:
    training = subprocess.Popen([sys.executable, *OWN, tmp_path, "quiet"], stdout=subprocess.DEVNULL, cwd=ROOT)
    wait_until(lambda: (tmp_path / "log.db").exists() and events(tmp_path, "own"), "the run's beginning")
    screen = Terminal("-m", "esper", "watch", "own", "--home", tmp_path).all()
    assert training.wait(60) == 0
    assert re.search(r"run own is running  step \d+ of epoch \d+  [\d.]+ steps/s  loss [\d.]+", screen)
    assert re.search(r"next: \d#\d+ is judged from step \d+ on", screen)
    assert re.search(r"epoch/done \d+", screen)
    assert "TRAINING" in screen
    assert "evidence" in screen
    assert re.search(r"run own is completed: 96 steps, loss [^\n]*\r\n$", screen)


def test_what_is_watched_without_a_terminal_is_told_what_to_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = runner(tmp_path, capsys)("watch", "own")
    assert result.code == 2
    assert "esper events RUN --follow" in result.err


@pytest.mark.parametrize("seed", range(12))
def test_something_comes_next_at_any_place_of_a_run(seed: int) -> None:
    import random

    history = simulate(random.Random(seed), 30)
    state = history.state
    assert isinstance(state, RunState)
    said = outlook(state)
    assert said
    assert "\n" not in said
    living = state.live_seeds()
    assert not living or said.startswith(living[0].name)
    if living and living[0].stage is Stage.TRAINING:
        assert "is judged from step" in said
