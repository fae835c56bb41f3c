"""Oona: the event log. ``open_log`` picks the adapter by URL; ``esper.log.port`` says what each can do."""

from __future__ import annotations

from pathlib import Path

from esper.errors import UsageError
from esper.log.port import Log

_SQLITE = "sqlite:///"


def open_log(url: str) -> Log:
    """The log at ``url``: ``sqlite:///relative/path.db`` or ``sqlite:////absolute/path.db``.

    The file and its folder are created on first use. Raises UsageError for any other URL.
    """
    path = url.removeprefix(_SQLITE)
    if not url.startswith(_SQLITE) or not path.strip("/"):
        raise UsageError(f"{url!r} is not a log; write sqlite:///relative/path.db or sqlite:////absolute/path.db")
    from esper.log.sqlite import SqliteLog

    return SqliteLog(url, Path(path).absolute())
