"""How long it takes to be training again after a kill, and what steps cost that are run a second time.

The demo's run is killed (SIGKILL, by itself) half-way, four fifths into an epoch, and resumed in a fresh process.
Counted is what ``esper resume`` does: reading the data, making the model, ``esper.resume``, the first step. Imports
are apart, with what torch imports only when an optimiser steps first. Several pairs of processes; medians.

What a resume reads of a long run is apart: synthetic boundaries, read from the last checkpoint on and from the first.

    python -m benchmarks.resume train|again HOME    (what the processes run)
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.report import Figure, at_most, temporary_home

if TYPE_CHECKING:
    from esper.events import RunContent
    from esper.tasks.task import Task
    from esper.tolaria import Run

TITLE = "the demo's run, killed half-way and resumed"
PAIRS = 3
RUN = "demo"
LONG, AFTER = 100_000, 1000
"""Events of the long run, and of these how many come after its last checkpoint."""


def figures() -> list[Figure]:
    pairs = [_pair() for _ in range(PAIRS)]
    names = ("imports", "data and model", "esper.resume", "first step")
    seconds = {name: statistics.median(again[name] for _, again in pairs) for name in names}
    again_to_first = [sum(again["steps"].values()) / sum(map(first.get, again["steps"])) for first, again in pairs]
    return [
        Figure("steps before the kill", pairs[0][1]["killed at"]),
        Figure("events read", pairs[0][1]["events"]),
        *(Figure(f"{name}, s", value) for name, value in seconds.items()),
        at_most("to the first executed step without imports, s", sum(seconds.values()) - seconds["imports"], 3),
        Figure("steps executed again", len(pairs[0][1]["steps"]) + 1),
        at_most("a step executed again, of what it took at first", statistics.median(again_to_first), 1.2),
        *long_run(),
    ]


def long_run() -> list[Figure]:
    """Seconds to read and fold a run of LONG events, by a log and an artifact store that were just opened."""
    from esper.artifacts import open_store
    from esper.log import open_log
    from esper.settings import log_url
    from esper.tolaria.history import recent, whole

    with temporary_home() as home:
        url, artifacts = log_url(Path(home).absolute()), f"file:///{Path(home, 'artifacts').absolute()}"
        _write_long(url, artifacts)
        with closing(open_log(url)) as log:
            began = time.perf_counter()
            first = whole(log, RUN)
            from_first = time.perf_counter() - began
        with closing(open_log(url)) as log:
            began = time.perf_counter()
            last = recent(log, open_store(artifacts), RUN)
            from_last = time.perf_counter() - began
    if last is None or last.state != first.state:
        raise RuntimeError("the run as read from its last checkpoint on is another")
    return [
        Figure(f"a run of {LONG:,} events read from its first event, s", from_first),
        Figure(f"from its last checkpoint, {AFTER:,} events ago, s", from_last),
    ]


def _write_long(url: str, artifacts: str) -> None:
    from benchmarks.log import boundary, start
    from esper.artifacts import open_store
    from esper.events.encoding.codec import decode
    from esper.events.runs import CheckpointCommitted
    from esper.log import open_log
    from esper.log.chain import chained, first_link
    from esper.log.records import run_record
    from esper.tamiyo.run.fold import fold
    from esper.tamiyo.run.snapshot import Folded
    from esper.tamiyo.run.state import RunState
    from esper.tolaria.checkpoint.store import Checkpoints, snapshot

    files, state = Checkpoints(open_store(artifacts), RUN), RunState(RUN)
    contents: list[RunContent] = []
    link, position = first_link(RUN), None
    with closing(open_log(url)) as log:
        writer = log.open_writer(RUN)
        for place in range(0, LONG, AFTER):
            contents = [start() if number == 0 else boundary(number) for number in range(place, place + AFTER)]
            if place == LONG - AFTER:
                folded = Folded(state, link.hex(), str(position))
                kept = files.write(snapshot(place, place, ("due",), {}, {}, folded))
                contents[0] = CheckpointCommitted(
                    step=place, manifest=kept.manifest, sequence=place, reason="due", size=kept.size, fold=kept.fold
                )
            records = [
                run_record(RUN, content, epoch=1, sequence=number, writer="benchmark", time=datetime.now(UTC))
                for number, content in enumerate(contents, place + 1)
            ]
            records, link = chained(records, link)
            state = fold(state, (decode(record.schema, record.value) for record in records))
            position = writer.append(records)


def _pair() -> tuple[dict[str, float], dict[str, Any]]:
    """Seconds of each step at first, and what the resumed process measured."""
    with temporary_home() as home:
        killed = _child("train", home)
        if killed.returncode != -signal.SIGKILL:
            raise RuntimeError(f"the training process ended with {killed.returncode}: {killed.stderr[-2000:]}")
        resumed = _child("again", home)
        if resumed.returncode != 0:
            raise RuntimeError(f"the resumed process ended with {resumed.returncode}: {resumed.stderr[-2000:]}")
        return json.loads((Path(home) / "steps.json").read_text()), json.loads(resumed.stdout)


def _child(mode: str, home: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.resume", mode, home]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def train(home: str) -> None:
    """The run as the demo begins it, up to the kill."""
    import esper
    from benchmarks.spine import demo_task
    from esper.settings import settings_from

    task = demo_task()
    arguments = _arguments(task, home)
    run = esper.start(**arguments, run_id=RUN, settings=settings_from((), task.settings))
    last = _killed_at(task)
    seconds: dict[int, float] = {}
    for step, taken in _steps(run, task, arguments):
        seconds[step] = taken
        if step == last:
            (Path(home) / "steps.json").write_text(json.dumps(seconds))
            os.kill(os.getpid(), signal.SIGKILL)


def again(home: str) -> None:
    """The run resumed; trains to where it was killed and prints what that took."""
    began = time.perf_counter()
    importlib.import_module("torch._dynamo")  # torch imports it when an optimiser steps for the first time
    import esper.tolaria
    from benchmarks.spine import demo_task

    imported = time.perf_counter()
    task = demo_task()
    arguments = _arguments(task, home)
    made = time.perf_counter()
    run = esper.resume(RUN, **arguments)
    resumed = time.perf_counter()
    events = run.state.sequence
    stepped, last = 0.0, _killed_at(task)
    seconds: dict[int, float] = {}
    for step, taken in _steps(run, task, arguments):
        if stepped:
            seconds[step] = taken
        stepped = stepped or time.perf_counter()
        if step == last:
            break
    found = {
        "imports": imported - began,
        "data and model": made - imported,
        "esper.resume": resumed - made,
        "first step": stepped - resumed,
        "steps": seconds,
        "killed at": last,
        "events": events,
    }
    print(json.dumps(found))


def _arguments(task: Task, home: str) -> dict[str, Any]:
    """What start and resume both take."""
    from esper.tasks.task import loss

    model = task.model(0)
    optimizer = task.optimizer(model)
    scheduler = task.scheduler(optimizer, task.epochs * task.steps_per_epoch)
    return {
        "model": model,
        "optimizer": optimizer,
        "loss": loss,
        "gate_data": task.gate_loader(),
        "state": {"scheduler": scheduler},
        "home": home,
    }


def _steps(run: Run, task: Task, arguments: dict[str, Any]) -> Iterator[tuple[int, float]]:
    """Trains; after each step its number and the seconds since the step before."""
    loader = task.train_loader(0)
    before = time.perf_counter()
    for _ in run.epochs(task.epochs):
        for batch in run.batches(loader):
            run.step(batch)
            arguments["state"]["scheduler"].step()
            now = time.perf_counter()
            yield run.step_number, now - before
            before = now


def _killed_at(task: Task) -> int:
    return task.epochs // 2 * task.steps_per_epoch + 4 * task.steps_per_epoch // 5


if __name__ == "__main__":
    {"train": train, "again": again}[sys.argv[1]](sys.argv[2])
