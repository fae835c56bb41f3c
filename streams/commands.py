"""``esper worker`` and ``esper views``: the workers that keep the views, and looking after what they keep."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
from dataclasses import asdict
from pathlib import Path

import click
from click.core import ParameterSource
from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from esper.cli import options as cli
from esper.cli.options import common
from esper.cli.output import print_json
from esper.errors import UsageError
from esper.events.topics import ASSETS, DEADLETTER, RUNS, SIGNALS
from esper.log import open_log
from esper.log.exclusions import untaken
from esper.log.kafka.log import KafkaLog
from esper.system.hosts import is_loopback
from esper.system.locks import locked
from esper.system.private import make_folder, open_file
from streams import app, rebuild
from streams.serving.served import WorkerOptions
from streams.views import generations, verify

TOKEN = 16
"""Characters that a token has at least."""


class Access(BaseSettings):
    """Who may read a worker's views beyond loopback, and how it proves itself: environment ``ESPER_WORKER_*``."""

    model_config = SettingsConfigDict(env_prefix="ESPER_WORKER_", extra="ignore", frozen=True)

    token: SecretStr | None = Field(None, description="token that readers and other workers send")
    certificate: Path | None = Field(None, description="PEM file of its certificate")
    key: Path | None = Field(None, description="PEM file of that certificate's key")
    ca: Path | None = Field(None, description="PEM file of the authority that signed the workers' certificates")


def _check_free(host: str, port: int) -> None:
    """Raise UsageError where the port is taken; who serves there may be the first of several workers."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UsageError(f"{host}:{port} cannot be served at ({error.strerror}); name another --port") from error


def _keep_folder(folder: Path, name: str) -> int:
    """Have this process alone keep tables in ``folder``, as long as it lives; raises UsageError."""
    make_folder(folder)
    held = open_file(folder / "lock", os.O_RDWR)
    if not locked(held):
        by = os.read(held, 20).decode(errors="replace").strip()
        os.close(held)
        raise UsageError(
            f"a worker {name} (process {by}) keeps its tables in {folder} already; give this one another --name"
        )
    os.truncate(held, 0)
    os.write(held, f"{os.getpid()}\n".encode())
    return held


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address that the views are served at.")
@click.option("--port", default=7780, show_default=True, type=click.IntRange(1, 65535), help="And its port.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of its tables.  [default: HOME/worker/NAME]")
@click.option("--name", default=socket.gethostname(), help="Its name, another one for each.  [default: the host's]")
@common
def worker(place: cli.Place, host: str, port: int, data: Path | None, name: str) -> None:
    """Keep the views of a log on Kafka, and serve them as JSON, until SIGTERM or Ctrl-C.

    Start one or several. Beyond loopback ESPER_WORKER_TOKEN, ESPER_WORKER_CERTIFICATE and ESPER_WORKER_KEY are needed.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):  # it names a folder and a member of the group
        raise UsageError(f"--name {name!r} is no worker's name; use letters, digits and ._- only")
    _check_free(host, port)
    access = _access(host)
    context = click.get_current_context()
    if context.get_parameter_source("debug") is ParameterSource.COMMANDLINE:
        logging.getLogger("esper.worker").setLevel(logging.DEBUG)
    log = _kafka(place)
    log.registry.subjects.text(1)  # any question: a registry that does not answer, or is no registry, is told of now
    for topic in (RUNS, SIGNALS, ASSETS, DEADLETTER):
        log.partitions(topic)  # or says what is missing
    generation = generations.live(log)
    here = WorkerOptions(
        name=name,
        host=host,
        port=port,
        data=(data or Path(place.home) / "worker" / name).absolute(),
        token=access.token,
        certificate=access.certificate,
        key=access.key,
        ca=access.ca,
    )
    _keep_folder(here.data, name)
    generations.prepare(generation)
    if place.json:
        print_json({"name": name, "url": here.url, "generation": generation.number})
        sys.stdout.flush()
    else:
        click.echo(
            f"worker {name} keeps the views of {log.url}, generation {generation.number}: {here.url}/api/v1/runs"
        )
    views = app.run(lambda: app.Views(generation, here))
    if views.switched:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


@click.group()
def views() -> None:
    """Look after the views that the workers keep."""


@views.command("verify")
@common
def verify_views(place: cli.Place) -> int:
    """Compare the live views with a fresh fold of the log.

    Exits 1 if they differ, naming where.
    """
    log = _kafka(place)
    report, left = verify.report(generations.live(log)), list(untaken(log))
    code = 0 if report.ok and not left else 1
    for line in left:
        click.echo(f"esper: {line}", err=True)
    if place.json:
        print_json({**asdict(report), "untaken": left})
        return code
    for found in report.differences:
        click.echo(f"{found.view} {found.key}: {found.what}")
    for run_id, behind in report.behind.items():
        click.echo(f"run {run_id}: its view has {behind} events still to read; compared as far as it has come")
    result = f"{len(report.differences)} differ" if report.differences else "all agree"
    click.echo(f"generation {report.generation}: {report.runs:,} runs, {report.pieces:,} pieces compared: {result}")
    return code


@views.command("rebuild")
@common
def rebuild_views(place: cli.Place) -> None:
    """Fill a new generation of the views beside the live one, and switch to it.

    Running workers follow by themselves.
    """
    log = _kafka(place)
    before = generations.live(log)
    made = rebuild.rebuild(before)
    if place.json:
        print_json({"generation": made.number, "before": before.number})
    else:
        click.echo(f"generation {made.number} of the views is live now; it was {before.number}")


def _kafka(place: cli.Place) -> KafkaLog:
    log = open_log(place.log)
    if not isinstance(log, KafkaLog):
        raise UsageError(
            f"{place.log}: workers keep the views of a log on Kafka; name one with --log kafka://host:port"
        )
    return log


def _access(host: str) -> Access:
    try:
        access = Access()
    except ValidationError as error:
        raise UsageError(f"environment variables ESPER_WORKER_*: {error.errors()[0]['msg']}") from error
    if access.token is not None and len(access.token) < TOKEN:
        raise UsageError(f"ESPER_WORKER_TOKEN is too short; give it {TOKEN} characters, as `openssl rand -hex 16` does")
    if (access.certificate is None) is not (access.key is None):
        raise UsageError("ESPER_WORKER_CERTIFICATE and ESPER_WORKER_KEY belong together; set both")
    if not is_loopback(host) and not (access.token and access.certificate):
        raise UsageError(
            f"{host} is not loopback: set ESPER_WORKER_TOKEN ({TOKEN} characters at least), ESPER_WORKER_CERTIFICATE "
            f"and ESPER_WORKER_KEY, or leave --host out"
        )
    return access
