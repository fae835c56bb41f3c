"""``esper check``: whether what is stored is what was written. Imports no torch."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from esper.artifacts import open_store
from esper.cli.options import Place, common
from esper.cli.output import print_json
from esper.cli.runs.reading import existing_log, log_with
from esper.errors import UsageError
from esper.integrity import IntegrityReport, repair
from esper.integrity import check as look
from esper.log import mended
from esper.settings import log_url


@click.command()
@click.argument("run_id", metavar="[RUN]", required=False)
@click.option("--repair", "mend", is_flag=True, help="Remove files that nothing names for an hour; cut a damaged -wal.")
@common
def check(place: Place, run_id: str | None, mend: bool) -> int:
    """Look at every record and file, or at those of one run: is it what was written?

    Says what is damaged, where, and what follows from it; exits 1 then. Files that nothing names are what killed
    trainers leave; --repair removes these and nothing else, of runs that are whole. Where SQLite's -wal file is
    damaged, --repair lets what lies before the damage count, and keeps what it was beside it.
    """
    done = mended(place.log) if mend else []
    log = existing_log(place) if run_id is None else log_with(place, run_id)
    if log is None:
        raise UsageError(f"there is no log {place.log}; name it with --log, or its folder with --home")
    store = open_store(f"file:///{(Path(place.home) / 'artifacts').absolute()}")
    report = look(log, store, run_id, own=place.log == log_url(place.home))
    done += list(repair(report, log, store)) if mend else []
    if place.json:
        left = {folder: sum(each.size for each in files) for folder, files in report.left_over.items()}
        findings = [asdict(each) for each in report.findings]
        print_json({"ok": not findings, "findings": findings, "left_over": left, "repaired": done, **_counts(report)})
    else:
        for each in report.findings:
            click.echo(f"{f'run {each.run_id}: ' if each.run_id else ''}{each.place}: {each.what}")
        _tell_left(report, done)
        click.echo(_summary(report))
    return 1 if report.findings else 0


def _tell_left(report: IntegrityReport, done: list[str]) -> None:
    for folder, files in [] if done else report.left_over.items():
        size = sum(each.size for each in files)
        click.echo(f"{folder}: {len(files)} files that nothing names, {size:,} bytes; --repair removes old ones")
    for line in done:
        click.echo(line)
    if report.strangers:
        click.echo(f"files of {len(report.strangers)} runs that are not on this log were left alone")


def _counts(report: IntegrityReport) -> dict[str, int]:
    return {
        "runs": len(report.log.orders),
        "records": report.log.records,
        "unsummed": report.log.unsummed,
        "checkpoints": report.checkpoints,
        "files": report.files,
        "bytes": report.size,
    }


def _summary(report: IntegrityReport) -> str:
    looked = ", ".join(f"{count:,} {name}" for name, count in _counts(report).items() if name != "unsummed")
    unsummed = report.log.unsummed
    older = (
        f" ({unsummed:,} records have no checksum: an older Esper or another program wrote them)" if unsummed else ""
    )
    count = len(report.findings)
    result = "all is as it was written" if not count else f"{count} {'thing is' if count == 1 else 'things are'} not"
    return f"checked {looked}{older}: {result}"
