"""``esper dev``: Kafka and a schema registry on this machine. Imports no torch."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from esper.cli.output import print_json, print_table
from esper.dev.cluster import Addresses, Cluster

DEFAULT_HOME = ".esper/dev"


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--home``, ``--json`` and ``--debug``; the function gets the cluster and whether output is JSON."""

    @click.option("--home", default=DEFAULT_HOME, show_default=True, help="Folder of the brokers' data and logs.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback when something fails.")
    @functools.wraps(command)
    def with_cluster(*args: Any, home: str, as_json: bool, **kwargs: Any) -> Any:
        return command(Cluster(Path(home)), as_json, *args, **kwargs)

    return with_cluster


@click.group()
def dev() -> None:
    """Run Apache Kafka and a schema registry on this machine, on the loopback interface."""


@dev.command()
@click.option("--brokers", type=click.Choice(["1", "3"]), help="How many; 3 keep copies of all data.  [default: 1]")
@_options
def up(cluster: Cluster, as_json: bool, brokers: str | None) -> None:
    """Start what does not run, wait until it answers, make the topics, and print the addresses.

    Data and addresses stay the same from one start to the next.
    """
    addresses = cluster.up(None if brokers is None else int(brokers), say=_say)
    _make_topics(addresses)
    if as_json:
        print_json({"log": addresses.log, "registry": addresses.registry})
        return
    _say(f"broker and registry answer; their data is in {cluster.home}. For this shell:")
    click.echo(f"export ESPER_LOG={addresses.log}")
    click.echo(f"export ESPER_REGISTRY={addresses.registry}")


@dev.command()
@_options
def down(cluster: Cluster, as_json: bool) -> None:
    """Stop broker and registry. Their data stays."""
    stopped = cluster.down()
    if as_json:
        print_json({"stopped": stopped})
        return
    click.echo(f"stopped {', '.join(stopped)}" if stopped else f"nothing of {cluster.home} was running")


@dev.command()
@_options
def status(cluster: Cluster, as_json: bool) -> int:
    """Say what runs and where. Exits 1 unless all of it answers."""
    services = cluster.status()
    ok = bool(services) and all(service.answers for service in services)
    if as_json:
        print_json({"ok": ok, "services": services})
    elif not services:
        click.echo(f"there is no cluster in {cluster.home}; esper dev up starts one")
    else:
        rows = [
            (each.name, each.address, "-" if each.pid is None else str(each.pid), "yes" if each.answers else "no")
            for each in services
        ]
        print_table(("what", "address", "pid", "answers"), rows)
    return 0 if ok else 1


def _make_topics(addresses: Addresses) -> None:
    """What ``esper topics init`` does."""
    from esper.log.kafka import open_kafka
    from esper.log.kafka.admin.topics import make_topics, register_schemas

    os.environ["ESPER_REGISTRY"] = addresses.registry
    log = open_kafka(addresses.log)
    make_topics(log)
    register_schemas(log)


def _say(text: str) -> None:
    click.echo(f"esper: {text}", err=True)
