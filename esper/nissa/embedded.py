"""The database of a home, for commands that ask: theirs while they ask, or somebody else's who answers for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from esper.nissa.asking import Questions
from esper.nissa.migrate import migrate
from esper.nissa.owner import Taken, owning
from esper.nissa.server import Answer, ask
from esper.nissa.sink import Sink
from esper.nissa.warehouse import EMBEDDED, connect

if TYPE_CHECKING:
    from esper.log.port import Log


def analytics_url(home: str | Path) -> str:
    """The URL of the database: ``ESPER_ANALYTICS``, else the embedded one in the folder ``home``."""
    return os.environ.get("ESPER_ANALYTICS") or f"{EMBEDDED}{Path(home) / 'clickhouse'}"


class Embedded:
    """The database at ``url``, caught up with the log, within ``with``."""

    def __init__(self, url: str, log: Callable[[], Log | None]) -> None:
        self._url, self._log = url, log
        self._stack = ExitStack()
        self._ask: Answer = Questions(url).answer

    def __enter__(self) -> Self:
        with self._stack:
            if self._url.startswith(EMBEDDED):
                try:
                    self._stack.enter_context(owning(Path(self._url.removeprefix(EMBEDDED))))
                    self._fill()
                except Taken as taken:
                    if not taken.owner.socket:
                        raise
                    self._ask = partial(ask, taken.owner.socket)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def answer(self, sql: str, parameters: Mapping[str, str], form: str, *, write: bool = False) -> bytes:
        """See ``Questions.answer``."""
        return self._ask(sql, parameters, form, write)

    def _fill(self) -> None:
        client = connect(self._url)
        migrate(client)
        log = self._log()
        if log is not None:
            Sink(client, log).catch_up()
            log.close()
