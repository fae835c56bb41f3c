"""``esper schemas check``: whether today's schemas read all that was ever written. Imports no torch."""

from __future__ import annotations

from contextlib import closing

import click

from esper.cli.options import Place, common
from esper.cli.output import print_json
from esper.connections import registry_settings
from esper.errors import UsageError
from esper.events.encoding.evolution import lost, names, past, topic_of, unread, unread_in
from esper.events.encoding.schemas import schema_from_json


@click.group()
def schemas() -> None:
    """The Avro schemas of the events."""


@schemas.command()
@click.option("--registry", is_flag=True, help="Check what is in the log's registry (ESPER_REGISTRY) too.")
@common
def check(place: Place, registry: bool) -> int:
    """Check that every schema reads what its past versions wrote: those in schemas/past, and in the registry."""
    wrong = [line for name in names() for line in unread(name)] + lost()
    versions = sum(len(past(name)) for name in names())
    told = f"{len(names())} record types read all their {versions} recorded versions"
    if registry:
        registered, more = _registered(place.log)
        wrong += more
        told += f", and the {registered} in the registry"
    if place.json:
        print_json({"record_types": len(names()), "versions": versions, "wrong": wrong})
    for line in wrong:
        click.echo(f"esper: {line}", err=True)
    if not wrong and not place.json:
        click.echo(told)
    return 1 if wrong else 0


def _registered(log: str) -> tuple[int, list[str]]:
    """How many versions the registry has of our record types, and what is wrong with them, a line each."""
    from esper.log.kafka.address import Address
    from esper.log.kafka.registry import subject_of
    from esper.log.kafka.subjects import LEVEL, Subjects

    if not log.startswith("kafka://"):
        raise UsageError(f"{log} has no schema registry; name a log on Kafka with --log kafka://HOST:PORT")
    address, found, wrong = Address.parse(log), 0, []
    with closing(Subjects(registry_settings())) as subjects:
        for name in names():
            subject = subject_of(address.named(topic_of(name)), name)
            versions = [schema_from_json(text) for text in subjects.versions(subject)]
            found += len(versions)
            wrong += unread_in(name, versions, "in the registry")
            if versions and (level := subjects.level(subject)) != LEVEL:
                wrong.append(f"{subject} is {level or 'nothing'} in the registry, not {LEVEL}; set it there")
    return found, wrong
