"""``esper runs``, ``show`` and ``events``: reading runs. Imports no torch."""

from __future__ import annotations

import difflib
import json
import threading
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, get_args

import click

from esper.cli.options import Place, common
from esper.cli.output import print_json, print_seeds, print_table, seeds_line, summary_line, task_name
from esper.cli.runs.reading import existing_log, log_with, run_ids, state_at
from esper.errors import EsperError, RunNotFound, UsageError
from esper.events import Event, RunContent
from esper.events import runs as contents
from esper.events.encoding.codec import to_json
from esper.events.encoding.schemas import name_of
from esper.events.topics import RUNS
from esper.log.exclusions import Passed, noting, order_of, run_events
from esper.log.port import Entry, Log
from esper.tamiyo.run.fold import fold
from esper.tamiyo.run.state import RunState

_TYPES: dict[str, type] = {name_of(content): content for content in get_args(RunContent)}
METRICS = 20  # that `show` tells of
_LAST = (contents.RunCompleted, contents.RunFailed, contents.RunCancelled)


@click.command()
@common
def runs(place: Place) -> int:
    """List the runs, the oldest first.

    A run whose trainer was killed reads running; `esper resume RUN` goes on with it.
    """
    log = existing_log(place)
    told = [_run(log, run_id) for run_id in run_ids(log)] if log is not None else []
    unreadable = [run for run in told if "error" in run]
    passed = [each for run in told for each in run["passed_over"]]
    if place.json:
        print_json({"runs": told})
    elif not told:
        click.echo(f"there are no runs in {place.log} yet; esper train --task digits begins one")
    else:
        columns = ("run", "status", "name", "task", "steps", "loss", "seeds", "events", "begun")
        unnamed = not any(run.get("name") for run in told)
        left_out = columns.index("name") if unnamed else len(columns)
        rows = [(*row[:left_out], *row[left_out + 1 :]) for row in (columns, *map(_row, told))]
        print_table(rows[0], rows[1:])
    for trouble in (*(run["error"] for run in unreadable), *passed):
        click.echo(f"esper: {trouble}", err=True)
    return 1 if unreadable or passed else 0


def _run(log: Log, run_id: str) -> dict[str, Any]:
    """What ``runs`` says about one run; one that cannot be read keeps none of the others from being listed."""
    first: datetime | None = None
    last: datetime | None = None
    passed: list[Passed] = []

    def timed(entries: Iterable[tuple[Entry, Event]]) -> Iterable[Event]:
        nonlocal first, last
        for _, event in entries:
            first, last = first or event.envelope.time, event.envelope.time
            yield event

    try:
        state = fold(RunState(run_id), timed(run_events(log, run_id, unreadable=noting(passed))))
        if first is None:
            raise RunNotFound(
                f"run {run_id}: none of its records can be read as an event; is another program writing to {RUNS}?"
            )
    except (EsperError, ValueError) as error:
        return {
            "run_id": run_id,
            "status": None,
            "steps": None,
            "error": str(error),
            "passed_over": [*map(str, passed)],
        }
    return {
        "run_id": run_id,
        "status": state.status,
        "steps": state.step,
        "name": state.name,
        "tags": state.tags,
        "task": task_name(state),
        "loss": state.last_loss(),
        "seeds": state.stages(),
        "events": state.sequence,
        "begun": first,
        "last_event": last,
        "passed_over": [*map(str, passed)],
    }


def _row(run: dict[str, Any]) -> tuple[str, ...]:
    if "error" in run:
        return (run["run_id"], "unreadable", "", "", "", "", "", "", "")
    loss = "" if run["loss"] is None else f"{run['loss']:.4g}"
    seeds = ", ".join(f"{count} {stage.lower()}" for stage, count in run["seeds"].items())
    begun = f"{run['begun'].astimezone():%Y-%m-%d %H:%M}"
    return (
        run["run_id"],
        run["status"],
        run["name"] or "",
        run["task"] or "(Python)",
        f"{run['steps']:,}",
        loss,
        seeds,
        f"{run['events']:,}",
        begun,
    )


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option("--at", "sequence", type=int, metavar="SEQUENCE", help="As it was after this event (esper events).")
@click.option("--step", type=click.IntRange(min=0), help="As it was when this step was done.")
@common
def show(place: Place, run_id: str, sequence: int | None, step: int | None) -> None:
    """Show a run: its status, seeds and checkpoints, now or at any event or step."""
    if sequence is not None and step is not None:
        raise UsageError("--at and --step name two places in the run; give one of them")
    state = state_at(log_with(place, run_id), run_id, sequence=sequence, step=step)
    if place.json:
        print_json(_shown(state))
        return
    click.echo(summary_line(state))
    if state.cause:
        click.echo(f"  because     {state.cause}")
    for label, told in _said_of(state):
        click.echo(f"  {label:<11} {told}")
    click.echo(f"  task        {task_name(state) or 'begun from Python'}, seed {state.seed}, {state.optimizer}")
    click.echo(f"  at          step {state.step:,} of epoch {state.epoch}, event {state.sequence:,}")
    click.echo(f"  seeds       {seeds_line(state)}; {state.decisions:,} decisions, {len(state.rollbacks)} rollbacks")
    steps = ", ".join(f"{checkpoint.step:,}" for checkpoint in state.checkpoints) or "none"
    click.echo(f"  checkpoints at steps {steps}")
    click.echo(f"  digest      {state.digest_of_state()}")
    print_seeds(state)


def _said_of(state: RunState) -> Iterator[tuple[str, str]]:
    """What the user says of the run, as far as it was said, in lines with labels."""
    yield from (("name", state.name),) if state.name else ()
    yield from (("tags", ", ".join(state.tags)),) if state.tags else ()
    yield from (("notes", " ".join(state.notes.split())),) if state.notes else ()
    if state.params:
        params = json.loads(state.params).items()
        yield "params", ", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in params)
    for number, (name, metric) in enumerate(state.metrics.items()):
        if number == METRICS:
            yield "", f"... and {len(state.metrics) - METRICS} more metrics"
            break
        label = "" if number else "metrics"
        yield (
            label,
            f"{name} {metric.value:.4g}, least {metric.least:.4g} at step {metric.least_step:,}, "
            f"greatest {metric.most:.4g} at step {metric.most_step:,}",
        )


def _shown(state: RunState) -> dict[str, Any]:
    return {
        "run_id": state.run_id,
        "status": state.status,
        "steps": state.step,
        "sequence": state.sequence,
        "name": state.name,
        "tags": state.tags,
        "notes": state.notes,
        "params": None if state.params is None else json.loads(state.params),
        "metrics": state.metrics,
        "digest": state.digest_of_state(),
        "seeds": [
            {
                "seed": seed.name,
                "site": seed.site,
                "blueprint": seed.blueprint,
                "kernel": seed.kernel,
                "stage": seed.stage.value,
                "since": seed.since,
            }
            for seed in state.seeds.values()
        ],
        "checkpoints": [checkpoint.step for checkpoint in state.checkpoints],
        "state": state.plain(),
    }


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option("--type", "type_name", metavar="TYPE", help="Only events of this type, such as SeedTransitioned.")
@click.option("--follow", is_flag=True, help="Wait for more, until the run is over or Ctrl-C.")
@common
def events(place: Place, run_id: str, type_name: str | None, follow: bool) -> None:
    """Print a run's events in order; with --json one object a line."""
    wanted = _type(type_name) if type_name else None
    log = log_with(place, run_id)
    entries = log.follow(RUNS, key=run_id, stop=threading.Event()) if follow else log.read(RUNS, key=run_id)
    try:
        for entry, event in order_of(log, run_id).over(entries):
            if wanted is None or isinstance(event.content, wanted):
                _print_event(place, entry, event)
            if follow and isinstance(event.content, _LAST):
                break
    except KeyboardInterrupt:
        if not follow:
            raise


def _type(name: str) -> type:
    """The event class of a short or full type name; raises UsageError."""
    short = {full.rpartition(".")[2]: content for full, content in _TYPES.items()}
    found = _TYPES.get(name) or short.get(name)
    if found is None:
        close = difflib.get_close_matches(name, short, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UsageError(f"there is no event type {name!r}; {hint}a run has {', '.join(short)}")
    return found


def _print_event(place: Place, entry: Entry, event: Event) -> None:
    envelope, content = event.envelope, event.content
    data = to_json(event)
    if place.json:
        print_json(
            {
                "id": envelope.id,
                "type": type(content).__name__,
                "time": envelope.time,
                "writer": envelope.writer,
                "epoch": envelope.epoch,
                "sequence": envelope.sequence,
                "position": str(entry.position),
                "data": data,
            }
        )
        return
    short = {name: value for name, value in data.items() if name not in ("step", "measured") and _brief(value)}
    words = " ".join(f"{name}={_word(value)}" for name, value in short.items())
    step = f"step {data['step']:>6,}" if "step" in data else " " * 11
    click.echo(
        f"{envelope.sequence:>6}  {envelope.time.astimezone():%H:%M:%S}  {step}  {type(content).__name__:<20}  {words}"
    )


def _brief(value: Any) -> bool:
    """Whether a field's value fits into a line for people."""
    return value is not None and not isinstance(value, dict | list) and len(str(value)) <= 120


def _word(value: Any) -> str:
    text = str(value)
    if isinstance(value, str) and len(text) >= 40 and set(text) <= set("0123456789abcdef"):
        return f"{text[:12]}…"
    return json.dumps(text, ensure_ascii=False) if " " in text else text
