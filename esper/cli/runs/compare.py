"""``esper compare``: what is different between runs, and what they came to. Imports no torch."""

from __future__ import annotations

from typing import Any

import click

from esper.cli.options import Place, common
from esper.cli.output import print_json, print_table
from esper.client.runs import connect
from esper.tamiyo.proof.differences import Row


@click.command()
@click.argument("run_ids", metavar="RUN RUN...", nargs=-1, required=True)
@common
def compare(place: Place, run_ids: tuple[str, ...]) -> None:
    """Compare runs: params, settings, data, versions, and what they came to.

    It says what their logs know. What else their programs do is not on a log.
    """
    with connect(place.home, place.log) as connection:
        found = connection.compare(*run_ids)
    if place.json:
        print_json(found)
        return
    click.echo(found.known)
    columns = ("", *found.runs)
    if found.rows:
        print_table(columns, [_row(row) for row in found.rows], title="different")
    print_table(columns, [_row(row) for row in found.results], title="results")
    for group, names in found.same.items():
        told = ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:6])} and {len(names) - 6} more"
        click.echo(f"the same {group}: {told}")


def _row(row: Row) -> tuple[str, ...]:
    return (f"{row.group} {row.name}" if row.group != "result" else row.name, *map(_word, row.values))


def _word(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)
