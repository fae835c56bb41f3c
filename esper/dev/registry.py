"""Apicurio Registry, which speaks Confluent's REST API and keeps its state in Kafka."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path

from esper.dev.jars import Jars, java
from esper.dev.processes import Process, spawn
from esper.system.private import make_folder

_PATH = "/apis/ccompat/v7"


def url(port: int, host: str = "127.0.0.1") -> str:
    """The base URL for clients of Confluent's registry."""
    return f"http://{host}:{port}{_PATH}"


def environment(brokers: Iterable[str]) -> dict[str, str]:
    """What tells it to keep its state in Kafka."""
    return {"APICURIO_STORAGE_KIND": "kafkasql", "APICURIO_KAFKASQL_BOOTSTRAP_SERVERS": ",".join(brokers)}


def start(jars: Jars, folder: Path, *, port: int, brokers: Iterable[str]) -> Process:
    """Start the registry on 127.0.0.1, with its output in ``folder/registry.log``. It does not answer at once."""
    temporary = folder.absolute() / "tmp"
    make_folder(temporary)
    command = [
        java(),
        "-Xmx512m",
        "-XX:TieredStopAtLevel=1",
        f"-Djava.io.tmpdir={temporary}",
        "-Dquarkus.http.host=127.0.0.1",
        f"-Dquarkus.http.port={port}",
        "-jar",
        str(jars.registry_runner),
    ]
    return spawn(command, output=folder / "registry.log", environment=environment(brokers))


def answers(base: str, *, timeout: float = 2.0) -> bool:
    """Whether a registry at the URL ``base`` lists its subjects within ``timeout`` seconds."""
    try:
        with urllib.request.urlopen(f"{base}/subjects", timeout=timeout) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False
