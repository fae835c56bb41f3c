"""Opens the embedded database: to fill it, or for a command's questions. Where another process has it, that one
answers."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Self

from esper.errors import UsageError
from esper.nissa.clickhouse.questions import Questions
from esper.nissa.clickhouse.warehouse import EMBEDDED, connect, told
from esper.nissa.embedded.ownership import Taken, Unwritable, owning
from esper.nissa.embedded.server import Answer, ask
from esper.nissa.sink.sink import Sink
from esper.nissa.tables.migrate import migrate

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

    from esper.log.port import Log

logger = logging.getLogger("esper")


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
    """The database at ``url``, caught up with the log, within ``with``; questions may change it only with ``write``.

    Where an embedded one cannot be written it is made anew from the log, in a temporary folder, and says so.
    """

    def __init__(self, url: str, log: Callable[[], Log | None], *, write: bool = False) -> None:
        self._url, self._log, self._write = url, log, write
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack:
            if self._url.startswith(EMBEDDED):
                self._check_place()
                self._ask = self._filled()
            else:
                self._ask = self._questions(self._url)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def answer(self, sql: str, parameters: Mapping[str, str], form: str) -> bytes:
        """See ``Questions.answer``."""
        return self._ask(sql, parameters, form, self._write)

    @property
    def _folder(self) -> Path:
        return Path(self._url.removeprefix(EMBEDDED))

    def _filled(self) -> Answer:
        """Open and fill the embedded database, here or elsewhere; returns who answers questions."""
        try:
            return self._filled_at(self._url)
        except Taken as taken:
            if not taken.owner.socket:
                raise
            return partial(ask, taken.owner.socket)
        except Unwritable:
            if self._write:
                raise
        logger.warning(
            "%s cannot be written here: the tables are made anew from the log in a temporary folder, for this once; "
            "ESPER_ANALYTICS=chdb:////FOLDER keeps them",
            self._folder,
        )
        folder = self._stack.enter_context(TemporaryDirectory(prefix="esper-"))
        return self._filled_at(f"{EMBEDDED}{folder}/clickhouse")

    def _filled_at(self, url: str) -> Answer:
        self._fill(self._stack.enter_context(opened(url)), url)
        return self._questions(url)

    def _questions(self, url: str) -> Answer:
        return self._stack.enter_context(closing(Questions(url))).answer

    def _check_place(self) -> None:
        """Raise UsageError where there is nothing to ask about: a question makes no folders."""
        folder = self._folder
        if folder.exists():
            return
        if (log := self._log()) is None:
            raise UsageError(f"there are no runs in {folder.parent}; name their folder (--home), or their log (--log)")
        log.close()

    def _fill(self, client: Client, url: str) -> None:
        if (log := self._log()) is not None:
            with closing(log):
                Sink(client, log, url).catch_up()
