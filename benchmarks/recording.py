"""What telemetry costs a run that grows, with the default sampling: the demo's training with it and without, in turns.

All arms train the same, bit for bit, so a block of one does what the same block of another does. A batch ends after
two seconds of the clock, most of which pass in other arms' blocks: here a batch comes more often than in a run alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import cast

from benchmarks.report import Figure, at_most, temporary_home
from benchmarks.spine import demo_task, interleaved, under_esper
from esper.settings import Settings, settings_from
from esper.tasks.task import Task
from esper.tolaria import Run
from esper.tolaria.telemetry.recorder import Measurement, Recorder

TITLE = "the demo's training with telemetry against the same without"
BLOCKS, STEPS = 160, 30
LIMIT = 1.02


class ThrownAway:
    """Takes measurements as a recorder does, and keeps none."""

    dropped = 0

    def record(self, step: int, epoch: int, found: Iterable[Measurement]) -> None:
        for _ in found:
            pass

    def next_attempt(self) -> None: ...

    def close(self) -> None: ...


def figures() -> list[Figure]:
    """Medians over pairs of blocks that belong together."""
    task = demo_task()
    with temporary_home() as home:
        arms = [
            under_esper(task, f"{home}/{number}", settings=telemetry_every(task, every))
            for number, every in enumerate((0, 0, 1, 1))
        ]
        runs = [run for run, _ in arms]
        throw_away(runs[2])
        taken = interleaved([steps for _, steps in arms], STEPS, BLOCKS)
        germinated = len(runs[0].state.seeds)
        finish(runs)
    without, again, thrown, recorded = (each[1:] for each in taken)
    return [
        Figure(f"{task.name}: steps in a block", STEPS),
        Figure("seeds that germinated", germinated),
        Figure("milliseconds a step, without", statistics.median(without) / STEPS * 1000),
        Figure("without against without", ratio(without, again)),
        Figure("measured and thrown away against without", ratio(without, thrown)),
        at_most("recorded against thrown away", ratio(thrown, recorded), LIMIT),
        at_most("recorded against without", ratio(without, recorded), LIMIT),
    ]


def finish(runs: Sequence[Run]) -> None:
    """The end of all arms, which are to have the same weights."""
    ends = [run.finish() for run in runs]
    if len({end["parameters_digest"] for end in ends}) != 1:
        raise AssertionError(f"the arms trained differently: {ends}")


def throw_away(run: Run) -> None:
    """Let ``run`` measure and not record."""
    assert run._trainer is not None
    meter = run._trainer.meter
    assert meter is not None
    meter._recorder.close()
    meter._recorder = cast(Recorder, ThrownAway())


def telemetry_every(task: Task, every: int) -> Settings:
    return settings_from([*task.settings, f"telemetry.every={every}"])


def ratio(first: list[float], second: list[float]) -> float:
    return statistics.median(b / a for a, b in zip(first, second, strict=True))
