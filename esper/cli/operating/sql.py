"""``esper sql``: questions to ClickHouse about everything on the log."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict

import click

from esper.cli.options import Place, common
from esper.cli.output import print_json, print_table
from esper.cli.runs.reading import existing_log
from esper.errors import UsageError
from esper.nissa.clickhouse.named_queries import all_named, named
from esper.nissa.clickhouse.questions import BINARY, FORMATS
from esper.nissa.embedded.database import Embedded, analytics_url


@click.command()
@click.argument("query", required=False)
@click.option(
    "--named", "name", is_flag=False, flag_value="", metavar="[NAME]", help="Ask a named query, or list them."
)
@click.option(
    "--param", "parameters", multiple=True, metavar="NAME=VALUE", help="A parameter {NAME:Type} of the query."
)
@click.option("--format", "form", type=click.Choice(list(FORMATS)), help="[default: table]")
@click.option("--write", is_flag=True, help="Allow changes to the database; never files or URLs.")
@common
def sql(
    place: Place, query: str | None, name: str | None, parameters: tuple[str, ...], form: str | None, write: bool
) -> int:
    """Ask ClickHouse about everything on the log.

    \b
    esper sql "SELECT stage, count() FROM seed_transitions WHERE run_id = {run:String} GROUP BY ALL" --param run=RUN
    esper sql --named                     # the questions that people have; --json: their columns and SQL too
    esper sql --named seed_survival --param run=RUN
    esper sql "SHOW TABLES"

    The database is the one in HOME/clickhouse, or the server's that ESPER_ANALYTICS names.
    """
    if name == "":
        return _list(place)
    if (query is None) == (name is None):
        raise UsageError("name one query: esper sql 'SELECT ...', or --named NAME (esper sql --named lists them)")
    chosen = form or ("json" if place.json else "table")
    if chosen in BINARY and sys.stdout.isatty():
        raise UsageError(f"--format {chosen} is not for a terminal; redirect: esper sql ... --format {chosen} > FILE")
    given = _parsed(parameters)
    asked = named(name) if name is not None else None
    if asked is not None:
        given = asked.filled(given)
    answer = _answer(place, asked.sql if asked else query or "", given, chosen, write)
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()
    if chosen == "table" and not answer and not write:
        click.echo("no rows", err=True)
    return 0


def _answer(place: Place, text: str, parameters: Mapping[str, str], form: str, write: bool) -> bytes:
    url = analytics_url(place.home)
    with Embedded(url, lambda: existing_log(place), write=write) as database, _ended_by_control_c():
        return database.answer(text, parameters, form)


@contextmanager
def _ended_by_control_c() -> Iterator[None]:
    """Ctrl-C ends this process at once, for the engine in it hears of nothing before it has an answer; what a process
    that is gone leaves of the database is whole."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _list(place: Place) -> int:
    queries = all_named()
    if place.json:
        print_json({"queries": [asdict(each) for each in queries]})
    else:
        rows = [(each.name, ", ".join(map(each.described, each.parameters)), each.title) for each in queries]
        print_table(("query", "parameters", "what it answers"), rows)
    return 0


def _parsed(parameters: tuple[str, ...]) -> dict[str, str]:
    given = {}
    for each in parameters:
        name, equals, value = each.partition("=")
        if not equals or not name:
            raise UsageError(f"--param {each}: write it as NAME=VALUE")
        given[name] = value
    return given
