"""``esper rename``, ``tag`` and ``note``: signals that a run's trainer answers, or the command as the writer of a run
that is over. Imports no torch."""

from __future__ import annotations

import os
import socket
from collections import deque
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import click

from esper.cli.options import Place, common
from esper.cli.output import print_json
from esper.cli.runs.reading import log_with, state_of
from esper.cli.training.control import issued, send
from esper.errors import Fenced
from esper.events import RunContent
from esper.events.signals import CommandIssued
from esper.events.topics import RUNS, SIGNALS
from esper.log.chain import chained
from esper.log.exclusions import order_of
from esper.log.port import Log
from esper.log.records import event_of, run_record
from esper.tamiyo.rules import decider, script
from esper.tamiyo.run import about
from esper.tamiyo.run.fold import after
from esper.tamiyo.run.state import ENDED, RunState

ATTEMPTS = 3  # of commands that answer at the same time, each fences the one before


@click.command()
@click.argument("run_id", metavar="RUN")
@click.argument("name", metavar="NAME")
@common
def rename(place: Place, run_id: str, name: str) -> None:
    """Give a run a name; its id stays."""
    _ask(place, run_id, "rename", [about.named(name)])


@click.command()
@click.argument("run_id", metavar="RUN")
@click.argument("tags", metavar="TAG...", nargs=-1, required=True)
@click.option("--remove", is_flag=True, help="Take the tags away.")
@common
def tag(place: Place, run_id: str, tags: tuple[str, ...], remove: bool) -> None:
    """Give a run tags, or take them away."""
    _ask(place, run_id, "untag" if remove else "tag", list(about.tagged(tags)))


@click.command()
@click.argument("run_id", metavar="RUN")
@click.argument("text", metavar="TEXT")
@common
def note(place: Place, run_id: str, text: str) -> None:
    """Write a note about a run, in place of the one before; an empty TEXT takes it away."""
    _ask(place, run_id, "note", [about.noted(text)])


def _ask(place: Place, run_id: str, kind: str, values: list[str]) -> None:
    log = log_with(place, run_id)
    for value in values:
        send(log, run_id, issued(kind, value=value))
    for _ in range(ATTEMPTS):
        state = state_of(log, run_id)
        if state.status not in ENDED or _answered(log, state):
            break
    state = state_of(log, run_id)
    if place.json:
        print_json({"run_id": run_id, "name": state.name, "tags": state.tags, "notes": state.notes})
    elif state.status in ENDED:
        click.echo(f"run {run_id}: name {state.name or '-'}, tags {', '.join(state.tags) or '-'}")
    else:
        click.echo(
            f"asked run {run_id}; its trainer answers at its next boundary, or, if none is running, when it is resumed"
        )


def _answered(log: Log, state: RunState) -> bool:
    """Answer all that was asked of a run that is over; False if another command does so at the same time."""
    commands = _asked(log, state)
    rules = decider.afterwards(state)
    contents: list[tuple[RunContent, Any]] = []
    answer: Any = None
    asked: CommandIssued | None = None
    with closing(log.open_writer(state.run_id)) as writer:
        while True:
            try:
                step = rules.send(answer)
            except StopIteration:
                break
            if isinstance(step, script.Put):
                contents.append((step.content, step.causes))
                answer = state = after(state, step.content, writer.epoch)
            elif isinstance(step, script.Description):
                answer = about.obeyed(state, asked)
            else:
                command, asked = commands.popleft() if commands else (None, None)
                answer = command
        first = state.sequence - len(contents) + 1
        records = [
            run_record(
                state.run_id,
                content,
                epoch=writer.epoch,
                sequence=sequence,
                writer=f"cli/{socket.gethostname()}/{os.getpid()}",
                time=datetime.now(UTC),
                causes=causes,
            )
            for sequence, (content, causes) in enumerate(contents, start=first)
        ]
        order = order_of(log, state.run_id)
        deque(order.over(log.read(RUNS, key=state.run_id)), maxlen=0)
        try:
            if records and order.mark.link is not None:
                writer.append(chained(records, order.mark.link)[0])
        except Fenced:
            return False
    return True


def _asked(log: Log, state: RunState) -> deque[tuple[script.Command | None, CommandIssued | None]]:
    """The commands to a run that were not answered, the oldest first."""
    found: deque[tuple[script.Command | None, CommandIssued | None]] = deque()
    for entry in log.read(SIGNALS, key=state.run_id):
        event = event_of(entry)
        content, identity = event.content, event.envelope.id
        if isinstance(content, CommandIssued) and str(identity) not in state.answered:
            wrong = script.forged(identity, state.run_id, content.issuer, content.nonce)
            command = script.Command(identity, content.command, content.seed, content.issuer, wrong)
            found.append((command, content))
    return found
