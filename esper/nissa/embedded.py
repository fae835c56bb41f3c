"""The database: opened to be filled, and, for commands that ask, theirs while they ask, or somebody else's who answers
for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from esper.errors import UsageError
from esper.nissa.asking import Questions
from esper.nissa.migrate import migrate
from esper.nissa.owner import Taken, owning
from esper.nissa.server import Answer, ask
from esper.nissa.sink import Sink
from esper.nissa.warehouse import EMBEDDED, connect, told

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

    from esper.log.port import Log


def analytics_url(home: str | Path) -> str:
    """The URL of the database: ``ESPER_ANALYTICS``, else the embedded one in the folder ``home``."""
    return os.environ.get("ESPER_ANALYTICS") or f"{EMBEDDED}{Path(home) / 'clickhouse'}"


@contextmanager
def opened(url: str, socket: str = "", *, tables: bool = True) -> Iterator[Client]:
    """A client that may write of the database at ``url``, with its ``tables``; an embedded one is this process's alone.

    ``socket`` is where this process answers questions. ClickHouse's errors within ``with`` become AnalyticsError.
    """
    with ExitStack() as stack:
        if url.startswith(EMBEDDED):
            stack.enter_context(owning(Path(url.removeprefix(EMBEDDED)), socket=socket))
        stack.enter_context(told(url))
        client = stack.enter_context(closing(connect(url)))  # before anybody else opens it
        if tables:
            migrate(client)
        yield client


class Embedded:
    """The database at ``url``, caught up with the log, within ``with``."""

    def __init__(self, url: str, log: Callable[[], Log | None]) -> None:
        self._url, self._log = url, log
        self._stack = ExitStack()
        self._questions = Questions(url)
        self._ask: Answer = self._questions.answer

    def __enter__(self) -> Self:
        with self._stack:
            if self._url.startswith(EMBEDDED):
                self._check_place()
                try:
                    client = self._stack.enter_context(opened(self._url))
                    self._fill(client)
                except Taken as taken:
                    if not taken.owner.socket:
                        raise
                    self._ask = partial(ask, taken.owner.socket)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._questions.close()
        self._stack.close()

    def answer(self, sql: str, parameters: Mapping[str, str], form: str, *, write: bool = False) -> bytes:
        """See ``Questions.answer``."""
        return self._ask(sql, parameters, form, write)

    def _check_place(self) -> None:
        """Raise UsageError where there is nothing to ask about: a question makes no folders."""
        folder = Path(self._url.removeprefix(EMBEDDED))
        if folder.exists():
            return
        if (log := self._log()) is None:
            raise UsageError(f"there are no runs in {folder.parent}; name their folder (--home), or their log (--log)")
        log.close()

    def _fill(self, client: Client) -> None:
        if (log := self._log()) is not None:
            with closing(log):
                Sink(client, log, self._url).catch_up()
