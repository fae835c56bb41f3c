"""ClickHouse for tests: the embedded engine, of which a process can have one folder open at a time, or a server.

A test that takes the fixture ``database`` has a database of its own, with Esper's tables, in a folder of its own. Any
code under test may open more clients of ``database.url`` in this process (``Sink``, ``Questions``, ``Embedded``, a
command run by click's runner) and need not close them: whatever was opened is closed when the test ends, since another
folder can be opened only when no client of the one before is left. A test that runs commands as processes of their own
needs none of this, but two processes cannot have the same folder open: call ``database.release()`` first.

Where ESPER_TEST_CLICKHOUSE names a server (clickhouse://HOST:PORT, its user and password in ESPER_CLICKHOUSE_USERNAME
and _PASSWORD), the database is one of the test's own there, and dropped afterwards: every test that takes the fixture
is the contract of both. Tests of the embedded engine's lock, socket and folder run commands in a home of their own, and
do so there too.

    def test_it(database: Database) -> None:
        log = open_log(f"sqlite:///{tmp_path / 'log.db'}")
        Sink(database.client, log).catch_up()
        assert database.rows("SELECT count() FROM events") == [(0,)]
        assert database.ask(named("slowest_sites").sql, run="") == [...]  # read-only, with limits, as users ask
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client


SERVER = os.environ.get("ESPER_TEST_CLICKHOUSE", "").rstrip("/")


class Database:
    """A database with Esper's tables. ``client`` may write."""

    def __init__(self, url: str, opened: list[Client]) -> None:
        from esper.nissa.clickhouse.warehouse import connect
        from esper.nissa.tables.migrate import migrate

        self.url, self._opened = url, opened
        self.client = connect(url)
        migrate(self.client)

    def rows(self, sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """The rows that ``sql`` gives."""
        return [tuple(row) for row in self.client.query(sql, parameters=parameters).result_rows]

    def ask(self, sql: str, **parameters: str) -> list[dict[str, Any]]:
        """The rows by column that a user gets who asks ``sql``: read-only and with limits."""
        from esper.nissa.clickhouse.questions import Questions

        answer = orjson.loads(Questions(self.url).answer(sql, parameters, "json"))
        return [dict(row) for row in answer["data"]]

    def release(self) -> None:
        """Close every client, so that another process can open the folder. The clients cannot be used again."""
        while self._opened:
            with suppress(Exception):  # closed by somebody else before
                self._opened.pop().close()


@contextmanager
def new_database(folder: Path, server: str = SERVER) -> Iterator[Database]:
    """A database in ``folder``, or on ``server``, for longer than a test; nobody in this process can have another
    folder meanwhile."""
    import clickhouse_connect

    from esper.nissa.clickhouse.warehouse import EMBEDDED

    opened: list[Client] = []
    name = f"esper_test_{uuid.uuid4().hex[:12]}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clickhouse_connect, "get_client", _noting(clickhouse_connect.get_client, opened))
        made = Database(f"{server}/{name}" if server else f"{EMBEDDED}{folder}", opened)
        try:
            yield made
        finally:
            if server:
                made.client.command(f"DROP DATABASE {name} SYNC")
            made.release()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A database of the test's own; see the module."""
    with new_database(tmp_path / "clickhouse") as made:
        yield made


def _noting(get_client: Callable[..., Client], opened: list[Client]) -> Callable[..., Client]:
    def get(*args: Any, **more: Any) -> Client:
        opened.append(get_client(*args, **more))
        return opened[-1]

    return get
