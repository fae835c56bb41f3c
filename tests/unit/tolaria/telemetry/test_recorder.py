"""Telemetry on its way: what a killed trainer has measured is on the log but for the last two seconds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from esper.events import Event
from esper.events.telemetry import StepsMeasured
from esper.events.topics import TELEMETRY
from esper.log import open_log
from esper.log.records import event_of

PROGRAM = """
import sys, time
from esper.log import open_log
from esper.settings import Telemetry
from esper.tolaria.telemetry.recorder import Recorder
recorder = Recorder(open_log(sys.argv[1]), "run", 1, 1, Telemetry())
for step in range(1, 1000):
    recorder.record(step, 0, [("loss", "", 1.0)])
    print(step, time.time(), flush=True)
    time.sleep(float(sys.argv[2]) if step % 5 == 0 else 0.01)
"""


def killed_after(url: str, pause: float, seconds: float) -> tuple[float, dict[int, float]]:
    """When a recording process was killed, and when it had measured each step."""
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, url, str(pause)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    steps: dict[int, float] = {}
    end = None
    for line in process.stdout:
        step, at = line.split()
        steps[int(step)] = float(at)
        end = end or time.time() + seconds
        if time.time() >= end:
            break
    time.sleep(pause / 2)  # within a pause of the loop, as of an evaluation
    os.kill(process.pid, signal.SIGKILL)
    killed = time.time()
    process.wait()
    process.stdout.close()
    return killed, steps


def test_a_killed_trainer_has_lost_two_seconds_of_measurements_at_most(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'log.db'}"
    killed, steps = killed_after(url, pause=6.0, seconds=4.0)
    log = open_log(url)
    events: list[Event] = [event_of(entry) for entry in log.read(TELEMETRY, key="run")]
    log.close()
    kept = {step for event in events if isinstance(event.content, StepsMeasured) for step in event.content.steps}
    lost = [killed - at for step, at in steps.items() if step not in kept]
    assert kept
    assert max(lost, default=0.0) < 2.8  # two seconds, a quarter of them until it is looked at, and the log
