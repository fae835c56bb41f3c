"""``esper why`` and ``esper verify``: what the log proves. Imports no torch."""

from __future__ import annotations

import click

from esper.cli.options import Place, common
from esper.cli.output import print_json
from esper.cli.reading import history, log_with
from esper.log.ordering import once
from esper.log.port import ASSETS
from esper.tamiyo import verify as check
from esper.tamiyo.why import explain, render


@click.command()
@click.argument("run_id", metavar="RUN")
@click.argument("seed", metavar="SEED")
@common
def why(place: Place, run_id: str, seed: str) -> None:
    """Tell a seed's chain of causes: measurements, decision, kernel, gates, outcome.

    SEED is a name such as 'fc1#1' (esper show RUN lists them); quote it for the shell.
    """
    log = log_with(place, run_id)
    events = (event for _, event in history(log, run_id))
    chain = explain(events, seed, (event for _, event in once(log.read(ASSETS))))
    if place.json:
        print_json({"run_id": run_id, "seed": seed, "chain": chain})
    else:
        click.echo(render(chain))


@click.command()
@click.argument("run_id", metavar="RUN")
@common
def verify(place: Place, run_id: str) -> int:
    """Compute ids, transitions, observations, decisions and verdicts of a run again from its log.

    Exits 1 if anything does not follow from what came before it.
    """
    log = log_with(place, run_id)
    report = check.verify(run_id, (event for _, event in history(log, run_id)))
    if place.json:
        print_json({"run_id": run_id, "ok": report.ok, "counts": report.counts, "findings": report.findings})
    else:
        for finding in report.findings:
            click.echo(f"event {finding.sequence}: {finding.what} (rule: {finding.rule})")
        counted = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in report.counts.items() if count)
        click.echo(f"run {run_id}: {counted} computed again: {_result(len(report.findings))}")
    return 0 if report.ok else 1


def _result(findings: int) -> str:
    return f"{findings} do not agree" if findings else "all agree"
