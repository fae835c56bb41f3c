"""``esper train`` and ``esper resume``: a built-in task through the same few lines that anyone would write."""

from __future__ import annotations

import json
import os
import shlex
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

import esper
from esper.cli.options import DEFAULT_HOME, Place, common
from esper.cli.output import print_json, print_seeds, program, summary_line
from esper.cli.runs.reading import check_answers, has_ended, history, log_with, state_of
from esper.cli.training.progress import Progress, progress_for
from esper.errors import EsperError, RunEnded, RunUnusable, UsageError
from esper.events.encoding.codec import canonical_json
from esper.kasmina.seed.stages import Stage
from esper.settings import settings_from
from esper.tamiyo.policy.policies import newest
from esper.tamiyo.run.fold import fold
from esper.tamiyo.run.state import RunState
from esper.tasks import TASKS, load_task

if TYPE_CHECKING:
    from esper.tasks.task import Task
    from esper.tolaria import Run


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run of a built-in task was asked to do; RunStarted keeps it. ``steps`` ends the run early."""

    name: str
    epochs: int
    steps: int | None


@click.command()
@click.option("--task", "task_name", required=True, metavar="TASK", help=f"What to train: {' or '.join(TASKS)}.")
@click.option("--epochs", type=click.IntRange(min=1), help="How often to go through the data.  [default: the task's]")
@click.option("--steps", type=click.IntRange(min=1), help="How many steps to train, instead of --epochs.")
@click.option("--seed", default=0, show_default=True, help="Of the weights, the data's order and the decisions.")
@click.option(
    "--decisions",
    type=click.Choice(["local", "remote"]),
    help="Who decides where the network grows: the trainer, or a worker (`esper worker`).  [default: local]",
)
@click.option("--set", "assignments", multiple=True, metavar="PATH=VALUE", help="A setting, such as boundary.steps=50.")
@click.option("--run-id", metavar="ID", help="Name of the run.  [default: a new one]")
@click.option("--metrics", "address", metavar="[HOST:]PORT", help="Serve Prometheus metrics there, on loopback.")
@common
def train(
    place: Place,
    task_name: str,
    epochs: int | None,
    steps: int | None,
    seed: int,
    decisions: str | None,
    assignments: tuple[str, ...],
    run_id: str | None,
    address: str | None,
) -> None:
    """Train a built-in task and watch its network grow.

    Ctrl-C pauses the run; `esper resume RUN` goes on with it, also after a crash.
    """
    if epochs is not None and steps is not None:
        raise UsageError("--epochs and --steps both say when to end; give one of them")
    if decisions is not None:
        assignments += (f"decision.where={decisions}",)
    newest(settings_from(assignments).policy.name)  # a wrong option is found before the data is read
    if task_name in TASKS:  # another name is refused at once
        check_answers(place)
    task = load_task(task_name)
    per_epoch = task.steps_per_epoch
    plan = Plan(task.name, epochs or (task.epochs if steps is None else -(-steps // per_epoch)), steps)
    parts = _Parts(task, plan, seed)
    more: dict[str, Any] = {
        "seed": seed,
        "run_id": run_id,
        "settings": settings_from(assignments, task.settings),
        "task": canonical_json(asdict(plan)),
        "data": task.files,
    }
    whole = plan.steps or plan.epochs * per_epoch
    with progress_for(place, whole) as progress, esper.start(**parts.arguments(place), **more) as run:
        progress.say(f"run {run.run_id} begins")
        with _serving(address, run):
            _drive(run, parts, progress)
    _tell(place, run.state)


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option("--inexact", is_flag=True, help="Go on although torch, device or processor are not the run's.")
@click.option("--metrics", "address", metavar="[HOST:]PORT", help="Serve Prometheus metrics there, on loopback.")
@common
def resume(place: Place, run_id: str, inexact: bool, address: str | None) -> None:
    """Go on with a run of a built-in task, paused, stopped by a crash or killed."""
    log = log_with(place, run_id)
    if has_ended(log, run_id):
        state = state_of(log, run_id)
        if state.status != "completed":
            raise RunUnusable(f"run {run_id} is {state.status} ({state.cause}) and cannot be resumed; begin another")
        _tell(place, state, "there is nothing to resume")
        return
    started = fold(RunState(run_id), (event for _, event in islice(history(log, run_id), 1)))
    if started.task is None:
        raise UsageError(
            f"run {run_id} was begun from Python; go on with it there: "
            f"run = esper.resume({run_id!r}, model, optimizer, loss, ...) with the arguments of esper.start"
        )
    plan = Plan(**json.loads(started.task))
    task = load_task(plan.name)
    parts = _Parts(task, plan, started.seed)
    whole, more = plan.steps or plan.epochs * task.steps_per_epoch, parts.arguments(place) | {"inexact": inexact}
    with progress_for(place, whole) as progress, esper.resume(run_id, **more) as run:
        start = f"the checkpoint of step {run.step_number:,}"
        progress.say(f"run {run_id} goes on from {start}; its log was checked from event {run.checked_from:,} on")
        with _serving(address, run):
            _drive(run, parts, progress)
    _tell(place, run.state)


def _serving(address: str | None, run: Run) -> AbstractContextManager[object]:
    """Serve the run's measurements at this address, if there is one."""
    if not address:
        return nullcontext()
    from esper.nissa.prometheus import serving

    return serving(address, run.metrics)


class _Parts:
    """The task's model and all that trains it, as made from the run's seed."""

    def __init__(self, task: Task, plan: Plan, seed: int) -> None:
        self.task, self.plan = task, plan
        self.model = task.model(seed)
        self.optimizer = task.optimizer(self.model)
        self.scheduler = task.scheduler(self.optimizer, plan.steps or plan.epochs * task.steps_per_epoch)
        self.loader = task.train_loader(seed)
        self.gate = task.gate_loader()

    def arguments(self, place: Place) -> dict[str, Any]:
        """What ``esper.start`` and ``esper.resume`` both take."""
        from esper.tasks.task import loss

        return {
            "model": self.model,
            "optimizer": self.optimizer,
            "loss": loss,
            "gate_data": self.gate,
            "state": {"scheduler": self.scheduler},
            "home": place.home,
            "log": place.log,
            "progress": False,  # the command has one of its own
        }


def _drive(run: Run, parts: _Parts, progress: Progress) -> None:
    """Train to the end; a run that is paused or stopped on the way ends in good order too."""
    try:
        _train(run, parts, progress)
    except RunEnded:
        return
    except EsperError:
        if run.status == "failed":
            progress.close()
            _tell(progress.place, run.state)
        raise


def _train(run: Run, parts: _Parts, progress: Progress) -> None:
    from esper.tasks.task import accuracy

    end = parts.plan.steps
    for epoch in run.epochs(parts.plan.epochs):
        if end is not None and run.step_number >= end:
            break
        for batch in run.batches(parts.loader):
            loss = run.step(batch)
            parts.scheduler.step()
            progress.step(run, loss)
            if end is not None and run.step_number >= end:
                break
        progress.epoch(run, epoch + 1, accuracy(parts.model, parts.gate))
    run.finish(test=parts.task.evaluate)


def _tell(place: Place, state: RunState, remark: str | None = None) -> None:
    """The end of ``train`` and ``resume``: one JSON line, or the seeds, one line and what to type next."""
    if place.json:
        print_json(state.summary())
        return
    print_seeds(state)
    line = summary_line(state)
    click.echo(f"{line}; {remark}" if remark else line)
    known = (DEFAULT_HOME, os.environ.get("ESPER_HOME", DEFAULT_HOME))
    home = "" if place.home in known else f" --home {shlex.quote(place.home)}"
    if state.status == "paused":
        click.echo(f"go on with it:  {program()} resume {state.run_id}{home}")
    seed = shlex.quote(_telling_seed(state))
    click.echo(
        "next:\n"
        f"  {program()} why {state.run_id} {seed}{home}\n"
        f"  {program()} events {state.run_id} --type SeedTransitioned{home}\n"
        f"  {program()} verify {state.run_id}{home}\n"
        f"  {program()} report {state.run_id}{home}"
    )


def _telling_seed(state: RunState) -> str:
    """The seed whose story is worth reading first: one that was kept, else one that was judged."""
    by_interest = (Stage.FOSSILISED, Stage.HOLDING, Stage.BLENDING, Stage.CULLED, Stage.TRAINING, Stage.GERMINATED)
    names = [seed.name for stage in by_interest for seed in state.seeds.values() if seed.stage is stage]
    return names[0] if names else "SEED"
