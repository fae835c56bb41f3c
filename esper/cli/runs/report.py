"""``esper report``: runs as one page of HTML. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import click

from esper.cli.options import Place, common
from esper.cli.output import print_json
from esper.cli.runs.reading import existing_log
from esper.client.runs import connect
from esper.errors import EsperError
from esper.nissa.embedded.database import Embedded, analytics_url
from esper.tamiyo.advice import Finding


def _advice(place: Place, run_ids: Iterable[str]) -> dict[str, tuple[Finding, ...]]:
    """What the log says to do, of the runs that it still has, whole: a database may hold more."""
    found = {}
    with connect(place.home, place.log) as connection:
        for run_id in run_ids:
            with suppress(EsperError):
                found[run_id] = connection.run(run_id).advice()
    return found


@click.command()
@click.argument("run_ids", metavar="RUN...", nargs=-1, required=True)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("report.html"),
    show_default=True,
    help="The page to write.",
)
@common
def report(place: Place, run_ids: tuple[str, ...], out: Path) -> None:
    """Write a page about a run: curves, its seeds' lives, decisions, evidence, cost. Several runs are compared.

    The page is one file that needs no network.

    \b
    esper report RUN --out report.html
    esper report RUN OTHER --out both.html
    """
    from esper.nissa.report.gather import gather
    from esper.nissa.report.page import page

    with Embedded(analytics_url(place.home), lambda: existing_log(place)) as database:
        found = {run_id: gather(database.answer, run_id) for run_id in run_ids}
    text = page(found, datetime.now(UTC), _advice(place, run_ids))
    out.write_text(text, "utf-8")
    if place.json:
        print_json({"runs": list(found), "file": str(out), "bytes": len(text.encode())})
    else:
        click.echo(f"{out}: {', '.join(found)} ({len(text.encode()) // 1000} kB); open it in a browser")
