"""``esper log check``: transactions that hide what lies behind them. Imports no torch."""

from __future__ import annotations

import shlex
import time
from typing import TYPE_CHECKING

import click

from esper.cli.options import Place, common
from esper.cli.output import print_json
from esper.cli.runs.reading import kafka_log

if TYPE_CHECKING:
    from esper.log.kafka.admin.open_transactions import OpenTransaction
    from esper.log.kafka.log import KafkaLog


@click.group()
def log() -> None:
    """The log itself."""


@log.command()
@click.option("--end", "run_id", metavar="RUN", help="End this run's open transaction.")
@common
def check(place: Place, run_id: str | None) -> int:
    """List open transactions, which hide what lies behind them, with the command that ends each.

    A trainer at work has one for milliseconds. Exits 1 if one has lasted for longer than any should.
    """
    from esper.log.kafka.admin.open_transactions import end_transaction, open_transactions

    kafka = kafka_log(place)
    if run_id is not None:
        end_transaction(kafka, run_id)
    first = {each.position for each in open_transactions(kafka)}
    if first:
        time.sleep(1)  # those that trainers at work had open are gone by then
    found = [each for each in open_transactions(kafka) if each.position in first] if first else []
    hanging = [each for each in found if each.hanging]
    runs = {each.writer: each.run_id for each in found if each.run_id}  # one transaction may span topics
    commands = {each: _commands(kafka, place, each, each.run_id or runs.get(each.writer)) for each in found}
    if place.json:
        print_json([{**_plain(each), "commands": commands[each]} for each in found])
        return 1 if hanging else 0
    for each in found:
        click.echo(_line(each))
        click.echo(f"  {'  or, if that does not end it:  '.join(commands[each])}")
    if not found:
        click.echo("no transaction is open")
    return 1 if hanging else 0


def _plain(found: OpenTransaction) -> dict[str, object]:
    return {
        "position": str(found.position),
        "behind": found.behind,
        "key": found.key,
        "run_id": found.run_id,
        "writer": found.writer,
        "seconds": round(found.seconds, 1),
        "hanging": found.hanging,
    }


def _line(found: OpenTransaction) -> str:
    whose = f"run {found.run_id}" if found.run_id else f"key {found.key}"
    by = f" by {found.writer}" if found.writer else ""
    state = "hanging" if found.hanging else "open"
    return f"{found.position}: {state} for {found.seconds:.0f} s, {whose}{by}; {found.behind} offsets are hidden"


def _commands(kafka: KafkaLog, place: Place, found: OpenTransaction, run_id: str | None) -> list[str]:
    """What ends it: fencing its run; for one that its coordinator has forgotten, Kafka's own tool."""
    from esper.log.kafka.admin.open_transactions import abort_command

    ends = [f"esper log check --log {place.log} --end {shlex.quote(run_id)}"] if run_id else []
    return [*ends, abort_command(kafka, found)] if found.hanging or not ends else ends
