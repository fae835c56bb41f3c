"""``esper topics``: what topics a log has, and making them on Kafka. Imports no torch."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from esper.cli.options import Place, common
from esper.cli.output import print_json
from esper.cli.runs.reading import kafka_log
from esper.errors import UsageError
from esper.events.encoding.schemas import name_of
from esper.events.topics import PARTITIONS, ROLES, TOPICS, Topic

if TYPE_CHECKING:
    from esper.log.kafka.admin.topics import Registered


@click.group()
def topics() -> None:
    """The topics of a log."""


@topics.command("list")
@common
def list_(place: Place) -> None:
    """Show what there is to know of each topic: what it holds, under which key, for how long, who may do what with it,
    and what is made of it."""
    if place.json:
        print_json([_row(topic) for topic in TOPICS.values()])
        return
    for topic in TOPICS.values():
        row = _row(topic)
        click.echo(row.pop("name"))
        for name, value in row.items():
            if value:
                click.echo(f"  {name:<10}  {value if isinstance(value, str) else ', '.join(value)}")


def _row(topic: Topic) -> dict[str, Any]:
    return {
        "name": topic.name,
        "holds": topic.holds,
        "key": f"{topic.key}; {PARTITIONS} partitions",
        "kept": "the newest of each key" if topic.compacted else f"{topic.days} days" if topic.days else "for ever",
        "events": [name_of(content).rpartition(".")[2] for content in topic.contents],
        "rights": [f"{role} {'/'.join(operations).lower()}" for role, operations in topic.rights.items()],
        "view": topic.view,
        "tables": list(topic.tables),
    }


@topics.command()
@click.option("--acls", is_flag=True, help="Give the users named here the rights that they need.")
@click.option("--trainer", metavar="USER", help="Who trains.")
@click.option("--worker", metavar="USER", help="Who keeps the views.")
@click.option("--sink", metavar="USER", help="Who fills the analytics.")
@click.option("--operator", metavar="USER", help="Who sends commands and mends.")
@click.option("--arbiter", metavar="USER", help="Who may take records out of runs (esper dlq exclude).")
@common
def init(place: Place, acls: bool, **given: str | None) -> int:
    """Make what is missing, register the schemas, and say where the topics differ from what they have to be.

    May be run again at any time; it changes nothing that is there. Exits 1 if something differs.
    """
    from esper.log.kafka.admin.acls import rights, set_rights
    from esper.log.kafka.admin.topics import drift, make_topics, register_schemas

    users = {role: user for role in ROLES if (user := given[role])}
    if acls != bool(users):
        raise UsageError("--acls needs users, and users need --acls: esper topics init --acls --trainer USER ...")
    log = kafka_log(place)
    made = make_topics(log)
    schemas = register_schemas(log)
    differs = drift(log)
    rules = set_rights(log, users) if acls else 0
    least = {role: [str(right) for right in rights(log, role)] for role in ROLES}
    if place.json:
        print_json({"made": made, "schemas": asdict(schemas), "drift": differs, "rules": rules, "rights": least})
        return 1 if differs else 0
    click.echo(f"topics made: {', '.join(map(log.address.named, made)) or 'none, all were there'}")
    click.echo(f"schemas registered: {_words(schemas)}")
    if acls:
        click.echo(f"rights set: {rules} rules for {', '.join(f'{role} {user}' for role, user in users.items())}")
    else:
        click.echo("the least rights of each kind of user, which --acls sets:")
        for role in ROLES:
            click.echo(f"{role}:")
            for right in least[role]:
                click.echo(f"  {right}")
    for line in differs:
        click.echo(f"esper: {line}", err=True)
    return 1 if differs else 0


def _words(schemas: Registered) -> str:
    if not schemas.new:
        return f"none, all {schemas.there} were there"
    return f"{schemas.new}; {schemas.there} were there" if schemas.there else str(schemas.new)
