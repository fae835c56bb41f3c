"""``esper explain``: why a run grew or did not, and what to change. Imports no torch."""

from __future__ import annotations

import click

from esper.cli.options import Place, common
from esper.cli.output import print_json, seeds_line
from esper.client.runs import connect


@click.command()
@click.argument("run_id", metavar="RUN")
@common
def explain(place: Place, run_id: str) -> None:
    """Say why a run grew or did not, and what to change, with the numbers that say so.

    Each change is a setting: --set NAME=VALUE, or esper.start(settings={"NAME": VALUE}). docs/tuning.md has them all.
    """
    with connect(place.home, place.log) as connection:
        run = connection.run(run_id)
        state, findings = run.state(), run.advice()
    if place.json:
        print_json({"run_id": run_id, "seeds": state.stages(), "findings": findings})
        return
    click.echo(f"run {run_id} is {state.status} at step {state.step:,}: {seeds_line(state)}")
    for number, finding in enumerate(findings, start=1):
        click.echo(f"{number}. {finding.name}: {finding.what}\n   {finding.change}")
    if not findings:
        click.echo("nothing is to be said: what its log holds calls for no change")
