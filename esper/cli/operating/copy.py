"""``esper copy``: runs from one log to another. Imports no torch."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from esper.cli.options import Place, common
from esper.cli.output import print_json
from esper.cli.runs.reading import existing_log, log_with, run_ids
from esper.errors import (
    DecodeError,
    EsperError,
    Fenced,
    RecordTooLarge,
    RunExists,
    RunNotFound,
    SequenceConflict,
    SequenceGap,
    UsageError,
)
from esper.log import open_log
from esper.log.copy import Copied, copy_run
from esper.log.exclusions import Passed

_OF_ONE_RUN = (RunExists, RunNotFound, SequenceGap, SequenceConflict, RecordTooLarge, DecodeError, Fenced)
"""Errors that the next run need not meet; any other is one of the logs themselves."""


@click.command()
@click.argument("source_url", metavar="SOURCE_LOG")
@click.argument("destination_url", metavar="DEST_LOG")
@click.option("--run", "run_id", metavar="RUN", help="Copy this run only.")
@common
def copy(place: Place, source_url: str, destination_url: str, run_id: str | None) -> int:
    """Copy runs with their signals, blueprints and kernels; logs are URLs, embedded or on Kafka.

    What is there already is not written again, so a copy that was cut short can be repeated. A run that has gone on in
    DEST_LOG is refused. Checkpoints and kernels' files are not copied: resume the run with the same --home.
    """
    if source_url == destination_url:
        raise UsageError(f"{source_url} is named as both logs; name another to copy to")
    source = existing_log(Place(place.home, source_url, place.json))
    if source is None:
        raise UsageError(f"there is no log {source_url}")
    if run_id is not None:
        log_with(Place(place.home, source_url, place.json), run_id).close()  # or say which name was meant
    destination = open_log(destination_url)
    told: list[dict[str, Any]] = []
    passed: list[Passed] = []
    for each in run_ids(source) if run_id is None else [run_id]:
        try:
            copied = copy_run(source, destination, each)
        except EsperError as error:
            if run_id is not None:
                raise
            told.append({"run_id": each, "error": str(error)})
            click.echo(f"esper: {error}", err=True)
            if not isinstance(error, _OF_ONE_RUN):
                break
            continue
        passed += copied.passed
        told.append(asdict(copied) | {"passed": [str(each) for each in copied.passed]})
        if not place.json:
            click.echo(_words(copied))
    if place.json:
        print_json({"runs": told})
    elif not told:
        click.echo(f"there are no runs in {source_url}")
    for record in passed:
        click.echo(f"esper: {record}", err=True)
    return 1 if passed or any("error" in each for each in told) else 0


def _words(copied: Copied) -> str:
    before = f" after the {copied.there:,} there" if copied.there and copied.events else ""
    events = f"{copied.events:,} events{before}" if copied.events or not copied.there else "all its events were there"
    return f"run {copied.run_id}: {events}; {copied.signals:,} signals, {copied.assets:,} assets"
