"""What a run costs whose seeds are dormant, and what a step costs with a seed in each stage; the demo's task.

Training with the log, boundaries and checkpoints at the demo's intervals, against the same training without Esper, in
turns: blocks of as many epochs as make whole numbers of boundaries, and so of checkpoints, which each epoch ends with.
A block begins and ends between two boundaries, so that what other threads do for it falls into it.
"""

from __future__ import annotations

import math
import random
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import pairwise
from pathlib import Path

import esper
from benchmarks.dormant import bare_step, no_collection, ratios, stepping
from benchmarks.report import Figure, at_most, temporary_home
from esper.artifacts import open_store
from esper.errors import DataUnavailable
from esper.events.assets import KernelCompiled
from esper.events.runs import SeedTransitioned
from esper.events.topics import SIGNALS
from esper.kasmina.seed.stages import Stage
from esper.log import open_log
from esper.settings import Settings, log_url, settings_from
from esper.tasks import load_task
from esper.tasks.task import Task, loss
from esper.tezzeret.birth import compile_kernel
from esper.tolaria import Run
from esper.urza.library import built_in

TITLE = "the demo's training under Esper against the same without"
BLOCKS = 12
OFFSET = 12  # steps from a boundary to where a block begins
STAGE_ROUNDS = 300
LIFE = (Stage.DORMANT, Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING, Stage.HOLDING, Stage.FOSSILISED)
STAGES = [stage for stage in LIFE if stage is not Stage.GERMINATED]


def figures() -> list[Figure]:
    task = demo_task()
    return [*dormant_run(task), *stages(task)]


def demo_task() -> Task:
    """The demo's, or the digits where Fashion-MNIST is not installed."""
    try:
        return load_task("fashion-mnist")
    except DataUnavailable:
        return load_task("digits")


def dormant_run(task: Task) -> list[Figure]:
    """Medians over pairs of blocks that follow each other."""
    per_block = math.lcm(task.steps_per_epoch, dormant_settings(task).boundary.steps)
    with temporary_home() as home:
        run, under = under_esper(task, home)
        arms = [bare(task), bare(task), under]
        taken = interleaved(arms, per_block)
        run.finish()
        following = following_share(home)
    first, again, ours = (each[1:] for each in taken)
    ratio = statistics.median(b / a for a, b in zip(first, ours, strict=True)) + following
    return [
        Figure(f"{task.name}: steps in a block", per_block),
        Figure("milliseconds a step, bare", statistics.median(first) / per_block * 1000),
        Figure("bare against bare", statistics.median(b / a for a, b in zip(first, again, strict=True))),
        Figure("the wait for signals, which runs beside all three", following),
        at_most("under Esper against bare, that wait added", ratio, 1.03),
    ]


def dormant_settings(task: Task) -> Settings:
    return settings_from(["policy.seeds=0"], task.settings)


def interleaved(arms: Sequence[Iterator[None]], steps: int, blocks: int = BLOCKS) -> list[list[float]]:
    """For each arm the seconds of its blocks of ``steps``, which take turns in a drawn order; the first warms up."""
    for arm in arms:
        advance(arm, OFFSET)
    taken: list[list[float]] = [[] for _ in arms]
    order, draw = list(range(len(arms))), random.Random(0)
    with no_collection():
        for _ in range(blocks + 1):
            draw.shuffle(order)
            for index in order:
                began = time.perf_counter()
                advance(arms[index], steps)
                taken[index].append(time.perf_counter() - began)
    return taken


def advance(arm: Iterator[None], steps: int) -> None:
    for _ in range(steps):
        next(arm)


def bare(task: Task, seed: int = 0) -> Iterator[None]:
    """The training without Esper; yields after each step."""
    model = task.model(seed)
    optimizer = task.optimizer(model)
    scheduler = task.scheduler(optimizer, 10**6)
    loader = task.train_loader(seed)
    while True:
        for batch in loader:
            bare_step(model, optimizer, batch)
            scheduler.step()
            yield


def under_esper(
    task: Task, home: str, seed: int = 0, log: str | None = None, settings: Settings | None = None
) -> tuple[Run, Iterator[None]]:
    """The same training as a run that never germinates, unless ``settings`` say otherwise."""
    model = task.model(seed)
    optimizer = task.optimizer(model)
    scheduler = task.scheduler(optimizer, 10**6)
    loader = task.train_loader(seed)
    run = esper.start(
        model,
        optimizer,
        loss,
        gate_data=task.gate_loader(),
        state={"scheduler": scheduler},
        home=home,
        log=log,
        settings=settings or dormant_settings(task),
    )

    def steps() -> Iterator[None]:
        for _ in run.epochs(10**6):
            for batch in run.batches(loader):
                run.step(batch)
                scheduler.step()
                yield

    return run, steps()


def following_share(home: str, seconds: float = 2.0) -> float:
    """The share of a processor that a run's wait for signals takes."""
    stop, used = threading.Event(), []

    def follow() -> None:
        with closing(open_log(log_url(home))) as log:
            list(log.read(SIGNALS, key="run"))  # opens it
            began = time.thread_time()
            for _ in log.follow(SIGNALS, key="run", stop=stop):
                pass
            used.append(time.thread_time() - began)

    thread = threading.Thread(target=follow)
    thread.start()
    time.sleep(seconds)
    stop.set()
    thread.join()
    return used[0] / seconds


def stages(task: Task) -> list[Figure]:
    """A step with one seed, held in a stage, against a step without Esper; what a boundary does is left out."""
    batch = next(iter(task.train_loader(0)))
    with temporary_home() as home:
        runs = {stage: seeded(task, home, stage) for stage in STAGES}
        host = task.model(0)
        bare_one = partial(bare_step, host, task.optimizer(host), batch)
        measured = ratios([bare_one, *(stepping(run, batch) for run in runs.values())], STAGE_ROUNDS)
        for run in runs.values():
            run.finish()
    return [
        Figure(f"a step with {'no seed' if stage is Stage.DORMANT else f'a seed in {stage}'} against bare", ratio)
        for stage, ratio in zip(runs, measured, strict=True)
    ]


def seeded(task: Task, home: str, stage: Stage) -> Run:
    """A run with a ``bottleneck_mlp`` at the first Linear, held in ``stage``: it was put there past the gates, and no
    boundary is near."""
    model = task.model(0)
    settings = settings_from(["policy.seeds=0", "boundary.steps=1000000", "blending.steps=1000000"])
    run = esper.start(model, task.optimizer(model), loss, home=home, run_id=str(stage), settings=settings)
    assert run._trainer is not None
    seeds = run._trainer.seeds
    if stage is not Stage.DORMANT:
        site = next(each for each in seeds.sites if each.kind == "Linear" and each.reason is None)
        blueprint = next(each for each in built_in().values() if each.blueprint.startswith("bottleneck_mlp@"))
        store = open_store(f"file:///{Path(home).absolute()}/artifacts")
        born, _ = compile_kernel(store, blueprint, site.request(blueprint.blueprint, 0))
        assert isinstance(born, KernelCompiled)
        for before, after in pairwise(LIFE[: LIFE.index(stage) + 1]):
            seeds.apply(
                SeedTransitioned(
                    site=site.name,
                    seed=f"{site.name}#1",
                    blueprint=blueprint.blueprint,
                    kernel=born.kernel,
                    from_stage=before,
                    to_stage=after,
                    step=0,
                    cause="gate",
                    gate=None,
                    evidence=None,
                )
            )
    return run
