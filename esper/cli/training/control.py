"""``esper pause``, ``stop`` and ``seed cull``: signals to a run, which its trainer answers. Imports no torch."""

from __future__ import annotations

import getpass
import os
import socket
import uuid
from datetime import UTC, datetime

import click

from esper.cli.options import Place, common
from esper.cli.output import print_json
from esper.cli.runs.reading import log_with, state_of
from esper.errors import RunUnusable, UsageError
from esper.events.signals import CommandIssued
from esper.log.port import Log, Position
from esper.log.records import signal_record
from esper.tamiyo.run.state import RunState

_reason = click.option("--reason", default="", help="Why; it is kept with the command.")


@click.command()
@click.argument("run_id", metavar="RUN")
@_reason
@common
def pause(place: Place, run_id: str, reason: str) -> None:
    """Ask a run to pause at its next boundary; `esper resume RUN` goes on with it."""
    log, state = _open_run(place, run_id)
    if state.status == "paused":
        raise RunUnusable(f"run {run_id} is paused already; `esper resume {run_id}` goes on with it")
    _send(place, log, run_id, "pause", None, reason, "to pause")


@click.command()
@click.argument("run_id", metavar="RUN")
@_reason
@common
def stop(place: Place, run_id: str, reason: str) -> None:
    """Ask a run to stop for good at its next boundary; it is then cancelled and cannot be resumed."""
    log, _ = _open_run(place, run_id)
    _send(place, log, run_id, "stop", None, reason, "to stop for good")


@click.group()
def seed() -> None:
    """Ask something of one seed."""


@seed.command()
@click.argument("run_id", metavar="RUN")
@click.argument("seed", metavar="SEED")
@_reason
@common
def cull(place: Place, run_id: str, seed: str, reason: str) -> None:
    """Ask a run to cull a live seed at its next boundary.

    SEED is a name such as 'fc1#1' (esper show RUN lists them); quote it for the shell.
    """
    log, state = _open_run(place, run_id)
    live = ", ".join(each.name for each in state.live_seeds()) or "none"
    known = state.seeds.get(seed)
    if known is None:
        raise UsageError(f"run {run_id} has no seed {seed!r}; its live seeds: {live}")
    if not known.live:
        raise RunUnusable(f"seed {seed} is {known.stage} already; live seeds: {live}")
    _send(place, log, run_id, "cull", seed, reason, f"to cull {seed}")


def _open_run(place: Place, run_id: str) -> tuple[Log, RunState]:
    """The log and the run's state; raises RunUnusable when no command can reach it any more."""
    log = log_with(place, run_id)
    state = state_of(log, run_id)
    if state.status not in ("running", "paused"):
        raise RunUnusable(f"run {run_id} is {state.status}; it takes no more commands")
    return log, state


def issued(command: str, seed: str | None = None, reason: str = "", value: str | None = None) -> CommandIssued:
    """A command of this user."""
    issuer, nonce = f"{getpass.getuser()}@{socket.gethostname()}", str(uuid.uuid4())
    return CommandIssued(command=command, seed=seed, issuer=issuer, nonce=nonce, reason=reason, value=value)


def send(log: Log, run_id: str, content: CommandIssued) -> tuple[str, Position]:
    """The signal's id, and where it lies."""
    record = signal_record(run_id, content, writer=f"cli/{socket.gethostname()}/{os.getpid()}", time=datetime.now(UTC))
    return dict(record.headers)["ce_id"].decode(), log.signal(record)


def _send(place: Place, log: Log, run_id: str, command: str, seed: str | None, reason: str, words: str) -> None:
    identity, position = send(log, run_id, issued(command, seed, reason))
    if place.json:
        print_json({"run_id": run_id, "command": command, "seed": seed, "id": identity, "position": str(position)})
        return
    click.echo(
        f"asked run {run_id} {words}; its trainer answers at its next boundary, "
        "or, if none is running, when the run is resumed"
    )
