"""How long a decision takes over the wire: a training on Kafka, and a worker in a process of its own that decides.

Measured in the trainer, from the commit of a boundary to the arrival of what was proposed about it: the worker's
reading, folding and deciding, and both ways through the broker. All of them run on this machine.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager

from benchmarks.brokers import kafka_log
from benchmarks.report import Figure, at_most, temporary_home
from benchmarks.spine import advance, demo_task, under_esper
from esper.events.runs import DecisionMade, DecisionRejected
from esper.events.topics import RUNS
from esper.log import open_log
from esper.log.records import event_of
from esper.settings import settings_from

TITLE = "a decision over the wire, from the boundary to the proposal's arrival in the trainer"
BOUNDARIES, FIRST = 220, 20  # boundaries trained, and those of them that are left out
READY = 180.0  # seconds that a worker may take to start


def figures() -> list[Figure]:
    task = demo_task()
    with kafka_log() as url, temporary_home() as home, worker(url, home):
        settings = settings_from(["decision.where=remote"], task.settings)
        run, steps = under_esper(task, home, log=url, settings=settings)
        began = time.perf_counter()
        advance(steps, BOUNDARIES * settings.boundary.steps)
        apart = (time.perf_counter() - began) / BOUNDARIES
        run.finish()
        with closing(open_log(url)) as log:
            contents = [event_of(entry).content for entry in log.read(RUNS, key=run.run_id)]
    made = [each for each in contents if isinstance(each, DecisionMade)][FIRST:]
    late = [each for each in contents if isinstance(each, DecisionRejected) and each.reason == "late"]
    latencies = sorted(each.measured["latency"] * 1000 for each in made if each.measured)
    waited = [each.measured["waited"] * 1000 for each in made if each.measured]
    return [
        Figure(f"{task.name}: milliseconds between two boundaries", apart * 1000),
        Figure("decisions measured", len(latencies)),
        Figure("decisions missed", len(late)),
        Figure("milliseconds that a boundary waited, on average", statistics.mean(waited)),
        at_most("milliseconds from a boundary to its proposal, p50", _percentile(latencies, 50), 50),
        at_most("milliseconds from a boundary to its proposal, p99", _percentile(latencies, 99), 250),
    ]


@contextmanager
def worker(url: str, home: str) -> Iterator[None]:
    """``esper worker`` on that log, ready."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    command = ["worker", "--log", url, "--home", home, "--port", str(port), "--name", "bench"]
    with open(os.path.join(home, "worker.log"), "wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "esper", *command], stdout=log, stderr=log)
    try:
        _until_ready(process, f"http://127.0.0.1:{port}/ready", log.name)
        yield
    finally:
        process.terminate()
        process.wait(60)


def _until_ready(process: subprocess.Popen[bytes], url: str, said: str) -> None:
    deadline = time.monotonic() + READY
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if json.load(answer)["partitions"]:
                    return
        except OSError:
            pass
        time.sleep(0.2)
    with open(said, encoding="utf-8", errors="replace") as text:
        raise RuntimeError(f"the worker was not ready within {READY:.0f} s; it said:\n{text.read()[-2000:]}")


def _percentile(ordered: list[float], percent: int) -> float:
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)]
