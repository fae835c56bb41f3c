"""What ten metrics a step cost a run: the demo's training that logs them against the same that does not, in turns, and
what telemetry costs beside it. All arms train the same, bit for bit."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from benchmarks.recording import LIMIT, STEPS, finish, ratio, telemetry_every
from benchmarks.report import Figure, at_most, temporary_home
from benchmarks.spine import demo_task, interleaved, under_esper
from esper.tolaria import Run

TITLE = "the demo's training that logs ten metrics a step against the same without"
BLOCKS = 60
NAMES = tuple(f"mine/metric_{number}" for number in range(10))


def figures() -> list[Figure]:
    """Medians over pairs of blocks that belong together."""
    task = demo_task()
    with temporary_home() as home:
        arms = [
            under_esper(task, f"{home}/{number}", settings=telemetry_every(task, every))
            for number, every in enumerate((0, 1, 1, 1))
        ]
        bare, plain, again, logged = (steps for _, steps in arms)
        taken = interleaved([bare, plain, again, _logging(arms[3][0], logged)], STEPS, BLOCKS)
        finish([run for run, _ in arms])
        kept = sum(each.count for each in arms[3][0].state.metrics.values())
    without, telemetry, twice, logging = (each[1:] for each in taken)
    return [
        Figure(f"{task.name}: steps in a block", STEPS),
        Figure("values on the log", kept),
        Figure("milliseconds a step, with telemetry", statistics.median(telemetry) / STEPS * 1000),
        Figure("telemetry against telemetry", ratio(telemetry, twice)),
        Figure("telemetry against none", ratio(without, telemetry)),
        at_most("ten metrics a step and telemetry against telemetry", ratio(telemetry, logging), LIMIT),
    ]


def _logging(run: Run, steps: Iterator[None]) -> Iterator[None]:
    for number, _ in enumerate(steps):
        run.log(dict.fromkeys(NAMES, number / 10))
        yield
