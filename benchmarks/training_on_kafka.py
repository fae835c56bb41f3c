"""What training costs on Kafka: the same run on Kafka and on the embedded log, in turns, boundaries over 100 ms apart.

The broker runs on the same machine. A run without Esper's log is measured by the benchmark ``spine``.
"""

from __future__ import annotations

import math
import statistics

from benchmarks.brokers import kafka_log
from benchmarks.report import Figure, at_least, at_most, temporary_home
from benchmarks.spine import demo_task, dormant_settings, interleaved, under_esper
from esper.settings import settings_from

TITLE = "the demo's training on Kafka against the same on the embedded log"
APART = 0.1  # seconds between two boundaries, at least


def figures() -> list[Figure]:
    """Medians over pairs of blocks that follow each other."""
    task = demo_task()
    steps = dormant_settings(task).boundary.steps
    per_block = math.lcm(task.steps_per_epoch, steps)
    with kafka_log() as url, temporary_home() as home:
        chosen = settings_from(["policy.seeds=0"], task.settings)
        embedded, embedded_steps = under_esper(task, f"{home}/a", log=f"sqlite:///{home}/a/log.db", settings=chosen)
        again, again_steps = under_esper(task, f"{home}/b", log=f"sqlite:///{home}/b/log.db", settings=chosen)
        on_kafka, on_kafka_steps = under_esper(task, f"{home}/c", log=url, settings=chosen)
        arms = [embedded_steps, again_steps, on_kafka_steps]
        taken = interleaved(arms, per_block)
        for run in (embedded, again, on_kafka):
            run.finish()
    first, second, ours = (each[1:] for each in taken)
    apart = statistics.median(first) / per_block * steps
    return [
        Figure(f"{task.name}: steps in a block", per_block),
        at_least("seconds between two boundaries", apart, APART),
        Figure("embedded against embedded", statistics.median(b / a for a, b in zip(first, second, strict=True))),
        at_most("on Kafka against embedded", statistics.median(b / a for a, b in zip(first, ours, strict=True)), 1.03),
    ]
