"""The log on Apache Kafka, with a schema registry that speaks Confluent's REST API."""

from __future__ import annotations

from esper.errors import UsageError
from esper.log.port import Log


def open_kafka(url: str) -> Log:
    """The log at ``kafka://HOST:PORT[,HOST:PORT...][/PREFIX]``."""
    raise UsageError(f"{url}: this version of Esper has no log on Kafka; name a sqlite:/// log")
