"""Oona: the event log. ``open_log`` picks the adapter by URL; ``esper.log.port`` says what each can do."""

from __future__ import annotations

from pathlib import Path

from esper.errors import UsageError
from esper.extras import naming_extras
from esper.log.port import Log

_SQLITE, _KAFKA = "sqlite:///", "kafka://"


def mended(url: str) -> list[str]:
    """Let the log at ``url`` go on with what lies before the damage, where it cannot be opened for that; says what was
    done. Raises LogError while another process has it open."""
    path = Path(url.removeprefix(_SQLITE)).absolute()
    if not url.startswith(_SQLITE):
        return []
    from esper.log.sqlite import wal

    done = wal.mend(path)
    return [] if done is None else [done]


def open_log(url: str) -> Log:
    """The log at ``url``: ``sqlite:///relative/path.db``, ``sqlite:////absolute/path.db`` or ``kafka://HOST:PORT,...``.

    The embedded log's file and folder are created on first use. Behind Kafka's brokers, ``/PREFIX`` sets this log apart
    from others on the cluster; ``esper.connections`` says how to reach them. Raises UsageError for any other URL.
    """
    if url.startswith(_KAFKA):
        with naming_extras():
            from esper.log.kafka import open_kafka

        return open_kafka(url)
    path = url.removeprefix(_SQLITE)
    if not url.startswith(_SQLITE) or not path.strip("/"):
        raise UsageError(
            f"{url!r} is not a log; write sqlite:///relative/path.db, sqlite:////absolute/path.db or kafka://host:port"
        )
    from esper.log.sqlite.log import SqliteLog

    return SqliteLog(url, Path(path).absolute())
