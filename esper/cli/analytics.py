"""``esper sink`` and ``esper analytics``: filling ClickHouse from the log, checking it, making it anew."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from esper.cli.options import Place, common
from esper.cli.output import print_json, print_table
from esper.log import open_log
from esper.nissa.asking import Questions
from esper.nissa.embedded import analytics_url
from esper.nissa.following import Progress, follow, lag
from esper.nissa.metrics import of_sink
from esper.nissa.metrics import serving as serving_metrics
from esper.nissa.migrate import migrate
from esper.nissa.owner import owning
from esper.nissa.server import serving, socket_path
from esper.nissa.sink import Sink
from esper.nissa.warehouse import EMBEDDED, connect

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client


@click.command()
@click.option("--metrics", "address", metavar="[HOST:]PORT", help="Serve Prometheus metrics there, on loopback.")
@common
def sink(place: Place, address: str | None) -> int:
    """Follow the log into ClickHouse until Ctrl-C or SIGTERM.

    An embedded database (the default) needs no sink: esper sql and report catch up by themselves. While one runs, they
    ask it.
    """
    url, stop, progress = analytics_url(place.home), threading.Event(), Progress()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    folder = Path(url.removeprefix(EMBEDDED))
    where = socket_path(folder) if url.startswith(EMBEDDED) else ""
    with _database(url, where) as client, ExitStack() as stack:
        migrate(client)
        if where:
            stack.enter_context(serving(where, Questions(url).answer))
        log = open_log(place.log)
        filling = Sink(client, log)
        stack.enter_context(serving_metrics(address, lambda: of_sink(progress, lag(filling, log))))
        click.echo(f"sink: {place.log} into {url}; Ctrl-C ends it", err=True)
        follow(filling, stop, progress)
    if place.json:
        print_json({"records": progress.records, "failures": progress.failures})
    return 0


@click.group()
def analytics() -> None:
    """Make, check and rebuild ClickHouse's tables (ESPER_ANALYTICS; default: embedded, in HOME/clickhouse)."""


@analytics.command(name="migrate")
@common
def migrate_command(place: Place) -> int:
    """Make the tables that are missing."""
    url = analytics_url(place.home)
    with _database(url) as client:
        done = migrate(client)
    if place.json:
        print_json({"url": url, "applied": done})
    else:
        click.echo(f"{url}: {', '.join(done)} applied" if done else f"{url}: nothing to do")
    return 0


@analytics.command()
@common
def rebuild(place: Place) -> int:
    """Delete all rows that the log still has records of, and write them anew; rows of older records stay."""
    url = analytics_url(place.home)
    with _database(url) as client:
        migrate(client)
        written = Sink(client, open_log(place.log)).rebuild()
    if place.json:
        print_json({"url": url, "records": written})
    else:
        click.echo(f"{url}: {written:,} records of {place.log} written anew")
    return 0


@analytics.command()
@common
def check(place: Place) -> int:
    """Compare every table with the log by counts and digests, and every rollup with its rows."""
    from esper.nissa.audit import audit

    url = analytics_url(place.home)
    with _database(url) as client:
        migrate(client)
        log = open_log(place.log)
        Sink(client, log).catch_up()
        found = list(audit(client, log))
    wrong = [each for each in found if not each.agree]
    if place.json:
        print_json({"url": url, "agree": not wrong, "tables": [asdict(each) for each in found]})
    else:
        rows = [(e.table, e.topic, f"{e.expected:,}", f"{e.found:,}", "yes" if e.agree else "NO") for e in found]
        print_table(("table", "topic", "rows by the log", "rows", "agree"), rows)
        click.echo("all agree" if not wrong else "esper analytics rebuild makes them anew from the log")
    return 1 if wrong else 0


@contextmanager
def _database(url: str, socket: str = "") -> Iterator[Client]:
    """A client that may write; of an embedded database the only one there is."""
    with ExitStack() as stack:
        if url.startswith(EMBEDDED):
            stack.enter_context(owning(Path(url.removeprefix(EMBEDDED)), socket=socket))
        yield connect(url)
