"""``esper dlq``: the records that could not be read, and those that are none of their run's. Imports no torch."""

from __future__ import annotations

import os
import socket
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from esper.artifacts import open_store
from esper.cli.options import Place, common
from esper.cli.output import print_json, print_table
from esper.cli.runs.reading import existing_log, state_of
from esper.errors import DecodeError, Disordered, EsperError, LogError, RunUnusable, UsageError
from esper.events import Event
from esper.events.topics import RUNS, SIGNALS
from esper.log.chain import digest
from esper.log.deadletter import Letter, letters, resolved_record
from esper.log.exclusions import excluded, exclusion_record, exclusions, order_of, run_events
from esper.log.port import Entry, Log, Position
from esper.log.records import event_of
from esper.tamiyo.proof import verify as check


@click.group()
def dlq() -> None:
    """The dead letters: records of the log that could not be read, or are none of their run's."""


@dlq.command("list")
@common
def list_(place: Place) -> None:
    """List the dead letters, and what was taken out of runs, the oldest first."""
    log = existing_log(place)
    found, out = ([], []) if log is None else (letters(log), exclusions(log))
    if place.json:
        taken = [{"key": entry.record.key, **asdict(content), "time": str(entry.timestamp)} for entry, content in out]
        print_json({"dead_letters": [_told(letter) for letter in found], "excluded": taken})
        return
    if not found:
        click.echo(f"there are no dead letters in {place.log}")
    else:
        columns = ("record", "error", "schema", "key", "bytes", "written", "resolved")
        print_table(columns, [_row(letter) for letter in found])
    if out:
        rows = [
            (content.source, entry.record.key, content.why, f"{entry.timestamp.astimezone():%Y-%m-%d %H:%M}")
            for entry, content in out
        ]
        print_table(
            ("record", "run", "why", "taken out"),
            [tuple(map(_printable, row)) for row in rows],
            title="taken out of runs",
        )


@dlq.command()
@click.argument("position", metavar="POSITION")
@common
def show(place: Place, position: str) -> None:
    """Show a dead letter whole: the record's bytes in hex, and its headers.

    POSITION is the record's, such as esper.runs/3:120 (esper dlq list).
    """
    source = Position.parse(position)
    log = _log(place)
    letter = _letter(log, source)
    if letter is None:
        raise UsageError(f"{source} is no dead letter; `esper dlq list` lists those that are")
    if place.json:
        print_json(_told(letter) | {"value": letter.content.value, "headers": _headers(letter)})
        return
    for name, value in _told(letter).items():
        click.echo(f"  {name:<12}{'' if value is None else _printable(str(value))}")
    for name, value in _headers(letter):
        click.echo(f"  header      {_printable(name)}: {_printable(value)}")
    content = letter.content
    cut = f" (the first {len(content.value):,} of {content.size:,} bytes)" if len(content.value) < content.size else ""
    click.echo(f"  value       {content.value.hex()}{cut}")


@dlq.command()
@click.argument("positions", metavar="POSITION...", nargs=-1, required=True)
@common
def redrive(place: Place, positions: tuple[str, ...]) -> int:
    """Read dead records again, after Esper was upgraded or a schema registered.

    A run's event is never written again: its run is folded anew from the log. A signal is sent again as it was, which
    counts once. What can be read now is noted beside the dead letter, and workers take the run's view up again.
    """
    log = _log(place)
    told, code = [], 0
    for source in map(Position.parse, positions):
        try:
            told.append({"source": str(source), "resolved": True, "outcome": _redriven(log, source)})
        except EsperError as error:
            code = 1
            told.append({"source": str(source), "resolved": False, "outcome": str(error)})
        if not place.json:
            resolved = told[-1]["resolved"]
            click.echo(f"{'' if resolved else 'esper: '}{source}: {told[-1]['outcome']}", err=not resolved)
    if place.json:
        print_json({"redriven": told})
    return code


@dlq.command()
@click.argument("position", metavar="POSITION")
@click.option("--why", required=True, help="The reason, which stays on the log.")
@common
def exclude(place: Place, position: str, why: str) -> None:
    """Take a record out of its run, after a fork, a forgery or damage: no reader takes it for an event any more.

    POSITION is one that a message names, on esper.runs. What follows on the record goes with it, so of a fork one
    branch is left, and of a damaged run what lies before. An event that is no branch of a fork, breaks no rule and is
    not the last one cannot be taken out. Nothing is deleted, and nothing brings the record back.
    """
    source = Position.parse(position)
    log = _log(place)
    if source.topic != RUNS:
        raise UsageError(f"{source} is not on {RUNS}; only records of runs can be taken out of them")
    entry = _entry(log, source, None)
    run_id = entry.record.key
    already = (run_id, source, digest(entry.record)) in excluded(log, run_id)
    if not already:
        _check_doubtful(place, log, entry)
        writer = f"cli/{socket.gethostname()}/{os.getpid()}"
        log.signal(exclusion_record(entry, why, writer=writer, time=datetime.now(UTC)))
        rest = _cut_transaction(log, run_id)
        if rest is not None:  # its first event: what follows on it goes with it
            log.signal(exclusion_record(rest, why, writer=writer, time=datetime.now(UTC)))
        letter = _letter(log, source)  # workers hear of it there, where the run's events are, and fold the run again
        where, outcome = None if letter is None else letter.position, f"excluded: {why}"
        log.signal(resolved_record(source, where, run_id, outcome, writer=writer, time=datetime.now(UTC)))
    result = _as_it_reads(log, run_id)
    if place.json:
        print_json({"source": str(source), "run_id": run_id, "excluded": True, "already": already, "run": result})
    else:
        click.echo(f"{source} was taken out {'before' if already else 'of run ' + run_id}; {result}")


def _check_doubtful(place: Place, log: Log, entry: Entry) -> None:
    """Raise UsageError for a run's event that every reader takes, that nothing speaks against and on which another
    follows; and for its last one while a trainer goes on with it: else only people can know whether it is a trainer's.
    """
    run_id, order = entry.record.key, order_of(log, entry.record.key, unreadable=lambda entry, error: None)
    read = list[tuple[Entry, Event]]()
    doubtful: set[str] = set()
    try:
        read.extend(order.over(log.read(RUNS, key=run_id)))
    except Disordered as error:
        doubtful.update(error.positions)
    if str(entry.position) in doubtful or not order.has(entry.position):
        return
    counted = log.counted(run_id)
    if counted is not None and (entry.record.sequence or 0) > counted.sequence:
        return
    report = check.verify(run_id, (event for _, event in read))
    doubtful.update(str(read[each.sequence - 1][0].position) for each in report.findings if each.sequence <= len(read))
    last = order.mark.position
    if last == entry.position and str(last) not in doubtful:
        if not _is_trained(place, run_id):
            return
        raise UsageError(f"{last} cannot be taken out while a trainer goes on with run {run_id}; stop that first")
    if str(entry.position) not in doubtful:
        others = " or ".join(sorted({*doubtful, str(last)}))
        raise UsageError(
            f"{entry.position} cannot be taken out of run {run_id}: nothing speaks against it; {others} can"
        )


def _is_trained(place: Place, run_id: str) -> bool:
    """Whether a trainer has the run's files, as far as they are here."""
    artifacts = (Path(place.home) / "artifacts").absolute()
    if not (artifacts / "runs" / run_id).is_dir():
        return False
    with open_store(f"file:///{artifacts}").alone(f"runs/{run_id}") as alone:
        return not alone


def _cut_transaction(log: Log, run_id: str) -> Entry | None:
    """The first event of the transaction in which the run ends now, if that is not whole: its trainer wrote all of it
    at once, so nothing of it may count."""
    try:
        read = list(run_events(log, run_id))
        cut = check.verify(run_id, (event for _, event in read)).cut
    except (Disordered, RunUnusable):
        return None
    return None if cut is None else read[cut - 1][0]


def _as_it_reads(log: Log, run_id: str) -> str:
    """How the run can be read now, in words."""
    try:
        return f"run {run_id} reads to event {sum(1 for _ in run_events(log, run_id))}"
    except Disordered as error:
        return f"still in the way: {error}"


def _redriven(log: Log, source: Position) -> str:
    """Read the record at ``source`` again and note that it can be; returns how, raises EsperError if it cannot."""
    letter = _letter(log, source)
    entry = _entry(log, source, letter)
    outcome = _read_in_run(log, entry) if source.topic == RUNS else _read(log, entry)
    where = None if letter is None else letter.position
    writer = f"cli/{socket.gethostname()}/{os.getpid()}"
    log.signal(resolved_record(source, where, entry.record.key, outcome, writer=writer, time=datetime.now(UTC)))
    return outcome


def _read_in_run(log: Log, entry: Entry) -> str:
    run_id = entry.record.key
    state = state_of(log, run_id)  # raises Quarantined if this record, or another, still stands in the way
    try:
        event = event_of(entry)
    except DecodeError as error:
        raise DecodeError(
            f"it still cannot be read ({error}); run {run_id} goes on without it to event {state.sequence}, so it is "
            "not one of its events"
        ) from error
    return f"{_kind(event)}, event {event.envelope.sequence} of run {run_id}, which folds to event {state.sequence}"


def _read(log: Log, entry: Entry) -> str:
    event = event_of(entry)
    if entry.position.topic == SIGNALS:
        log.signal(entry.record)
        return f"{_kind(event)}, sent again to run {entry.record.key}"
    return _kind(event)


def _kind(event: Event) -> str:
    return f"it reads as {type(event.content).__name__}"


def _entry(log: Log, source: Position, letter: Letter | None) -> Entry:
    """The record at ``source``; raises LogError where there is none, or none any more."""
    key = None if letter is None else letter.content.key
    for entry in log.read(source.topic, key=key):
        if entry.position == source:
            return entry
    if letter is None:
        raise LogError("there is no record at that place, and no dead letter; `esper dlq list` shows them all")
    raise LogError(f"there is no record at {source} any more; what it held is in `esper dlq show {source}`")


def _letter(log: Log, source: Position) -> Letter | None:
    return next((letter for letter in letters(log) if letter.content.source == str(source)), None)


def _log(place: Place) -> Log:
    log = existing_log(place)
    if log is None:
        raise UsageError(f"there is no log {place.log}; name it with --log or --home {Path(place.home)}")
    return log


def _told(letter: Letter) -> dict[str, Any]:
    content = letter.content
    return {
        "source": content.source,
        "error": content.error,
        "schema": content.schema,
        "schema_id": content.schema_id,
        "key": content.key,
        "size": content.size,
        "written": letter.time.isoformat(),
        "letter": str(letter.position),
        "resolved": letter.outcome,
    }


def _headers(letter: Letter) -> list[tuple[str, str]]:
    return [(header.name, header.value.decode(errors="backslashreplace")) for header in letter.content.headers]


def _row(letter: Letter) -> tuple[str, ...]:
    content = letter.content
    schema = content.schema or ("" if content.schema_id is None else f"id {content.schema_id}")
    written = f"{letter.time.astimezone():%Y-%m-%d %H:%M}"
    cells = (content.source, content.error, schema, content.key, f"{content.size:,}", written, letter.outcome or "no")
    return tuple(map(_printable, cells))


def _printable(text: str) -> str:
    """``text`` with its control characters escaped: what strangers wrote must not steer a terminal."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
