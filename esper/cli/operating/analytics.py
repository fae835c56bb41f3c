"""``esper sink`` and ``esper analytics``: filling ClickHouse from the log, checking it, making it anew."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from esper.cli.options import Place, common
from esper.cli.output import print_json, print_table
from esper.events.topics import ANALYSED
from esper.log import open_log
from esper.log.exclusions import untaken
from esper.log.port import Log, Position, Share
from esper.nissa.clickhouse.questions import Questions
from esper.nissa.clickhouse.warehouse import EMBEDDED
from esper.nissa.embedded.database import analytics_url, opened
from esper.nissa.embedded.server import serving, socket_path
from esper.nissa.sink.losses import Loss, losses
from esper.nissa.sink.process import SinkProgress, follow, lag
from esper.nissa.sink.shares import group_of, guarded, whole
from esper.nissa.sink.sink import Sink
from esper.nissa.tables.migrate import drop, migrate

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client


@click.command()
@click.option("--metrics", "address", metavar="[HOST:]PORT", help="Serve Prometheus metrics there, on loopback.")
@click.option(
    "--from",
    "start",
    metavar="BEGINNING|POSITION",
    help="Write all anew that the log holds, or a record (TOPIC/PARTITION:OFFSET) and all behind it in its partition.",
)
@common
def sink(place: Place, address: str | None, start: str | None) -> int:
    """Follow the log into ClickHouse until Ctrl-C or SIGTERM.

    An embedded database (the default) needs no sink: esper sql and report catch up by themselves. While one runs, they
    ask it.

    Several may fill a server's database (ESPER_ANALYTICS): they share a log on Kafka, and take over what one had that
    is gone.
    """
    url, stop, progress = analytics_url(place.home), threading.Event(), SinkProgress()
    position = None if start is None or start.lower() == "beginning" else Position.parse(start)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    where = socket_path(Path(url.removeprefix(EMBEDDED))) if url.startswith(EMBEDDED) else ""
    with opened(url, where) as client, closing(open_log(place.log)) as log, ExitStack() as stack:
        if start is not None:
            with _all_of(log, client, url) as alone:
                Sink(alone, log, url).go_back(position)
        share: Share | None = None
        if where:
            questions = stack.enter_context(closing(Questions(url)))
            stack.enter_context(serving(where, questions.answer, questions.cancel))
        else:
            share = stack.enter_context(log.share(ANALYSED, group_of(client)))
        filling = Sink(guarded(client, share) if share else client, log, url)
        if address:
            from esper.nissa import prometheus

            stack.enter_context(prometheus.serving(address, lambda: prometheus.of_sink(progress, lag(filling, log))))
        click.echo(f"sink: {place.log} into {url}; Ctrl-C ends it", err=True)
        follow(filling, stop, progress, share)
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
    with opened(url, tables=False) as client:
        done = migrate(client)
    if place.json:
        print_json({"url": url, "applied": done})
    else:
        click.echo(f"{url}: {', '.join(done)} applied" if done else f"{url}: nothing to do")
    return 0


@analytics.command(short_help="Write all rows anew from the log.")
@click.option(
    "--drop", "dropping", is_flag=True, help="Drop all tables first, with the rows of records that the log has no more."
)
@common
def rebuild(place: Place, dropping: bool) -> int:
    """Delete all rows that the log still has records of, and write them anew.

    Rows of records that the log does not hold any more stay, and rollups of measurements that have expired.
    """
    from esper.nissa.sink.audit import kept

    url = analytics_url(place.home)
    with opened(url, tables=False) as client, closing(open_log(place.log)) as log:
        with _all_of(log, client, url) as alone:
            if dropping:
                drop(alone)
            migrate(alone)
            written = Sink(alone, log, url).rebuild()
        rows, rollups = kept(client, log)
        lost = losses(client)
    if place.json:
        found = {"url": url, "records": written, "kept_rows": rows, "kept_rollups": rollups}
        print_json({**found, "lost": [asdict(each) for each in lost]})
    else:
        click.echo(f"{url}: {written:,} records of {place.log} written anew")
        if rows or rollups:
            click.echo(f"kept: {rows:,} rows of records that the log has no more, {rollups:,} rollups of expired rows")
        _tell(lost)
    return 0


@analytics.command(short_help="Compare every table with the log.")
@common
def check(place: Place) -> int:
    """Compare every table with the log by counts and digests, and every rollup with its rows.

    A server's database is compared as far as it is filled.
    """
    from esper.nissa.sink.audit import audit

    url = analytics_url(place.home)
    with opened(url) as client, closing(open_log(place.log)) as log:
        if url.startswith(EMBEDDED):
            Sink(client, log, url).catch_up()
        found = list(audit(client, log))
        lost, left = losses(client), list(untaken(log))
    wrong = [each for each in found if not each.agree]
    if place.json:
        tables = [asdict(each) for each in found]
        agree = not wrong and not left
        told = {"url": url, "agree": agree, "tables": tables, "lost": [asdict(each) for each in lost]}
        print_json(told | {"untaken": left})
    else:
        rows = [(e.table, e.topic, f"{e.expected:,}", f"{e.found:,}", "yes" if e.agree else "NO") for e in found]
        print_table(("table", "topic", "rows by the log", "rows", "agree"), rows)
        _tell(lost)
        fine = "all agree" if not left else "all agree but for what is no event of its run"
        click.echo("esper analytics rebuild makes them anew from the log" if wrong else fine)
    for line in left:
        click.echo(f"esper: {line}", err=True)
    return 1 if wrong or left else 0


def _tell(lost: Sequence[Loss]) -> None:
    for each in lost:
        click.echo(f"lost: {each}")


@contextmanager
def _all_of(log: Log, client: Client, url: str) -> Iterator[Client]:
    """A client that may change all, since a server's database has no other sink; raises AnalyticsError."""
    with nullcontext(client) if url.startswith(EMBEDDED) else whole(client, log) as alone:
        yield alone
