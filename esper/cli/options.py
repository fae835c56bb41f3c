"""The options that every command has."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from esper.settings import log_url

DEFAULT_HOME = ".esper"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the runs are (the folder ``home`` and the URL of the ``log``), and whether output is JSON."""

    home: str
    log: str
    json: bool


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--home``, ``--log``, ``--json`` and ``--debug``; the function gets a ``Place`` as its first argument."""

    @click.option(
        "--home",
        default=DEFAULT_HOME,
        show_default=True,
        envvar="ESPER_HOME",
        show_envvar=True,
        help="Folder of the runs.",
    )
    @click.option(
        "--log",
        "log",
        metavar="URL",
        envvar="ESPER_LOG",
        help="Event log.  [env: ESPER_LOG; default: sqlite:///HOME/log.db]",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback when something fails.")
    @functools.wraps(command)
    def with_place(*args: Any, home: str, log: str | None, as_json: bool, **kwargs: Any) -> Any:
        return command(Place(home, log or log_url(home), as_json), *args, **kwargs)

    return with_place
