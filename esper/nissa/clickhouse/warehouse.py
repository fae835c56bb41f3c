"""ClickHouse, in this process or on a server: opening a database by its URL."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from esper.extras import naming_extras
from esper.nissa.clickhouse.errors import told
from esper.nissa.clickhouse.server import WRITING, open_server
from esper.system.private import make_folder

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

__all__ = ["EMBEDDED", "LIMITS", "QUESTION", "connect", "told"]

EMBEDDED = "chdb:///"
LIMITS = {"max_execution_time": 60, "max_memory_usage": 4 << 30, "max_result_rows": 10_000_000}
"""Of a query: seconds, bytes, rows."""
QUESTION = "a question to Esper"
"""``log_comment`` of an embedded engine's queries that have these limits."""


def connect(url: str, *, limits: bool = False, write: bool = True) -> Client:
    """A client of the database at ``url``: ``chdb:///FOLDER`` in this process, or ``clickhouse://HOST:PORT/NAME``.

    With ``limits`` its queries have those of LIMITS; without ``write`` they can change nothing. An engine in this
    process allows no other process to open the same folder. A database that a server does not have is made for who may
    write without limits: Esper itself. Raises UsageError for another URL and AnalyticsError if the database cannot be
    opened.
    """
    with naming_extras():
        import chdb  # noqa: F401  the client would say in other words that it is missing
        import clickhouse_connect

    given = LIMITS if limits else {}
    with told(url):
        if not url.startswith(EMBEDDED):
            return open_server(url, limits=given, write=write, make=write and not limits)
        folder = Path(url.removeprefix(EMBEDDED))
        make_folder(folder)
        client = clickhouse_connect.get_client(interface="chdb", path=str(folder))
        _have_own_database(client)
        question = {"log_comment": QUESTION} if limits else {}
        for name, value in {**given, **question, **(WRITING if write else {"readonly": 1})}.items():
            client.set_client_setting(name, value)
        return client


def _have_own_database(client: Client) -> None:
    """Use the database that servers use too. In the engine's default one every path of a file is the name of a table,
    so another is put in its place, which has to be there for the engine to open at all."""
    client.command("CREATE DATABASE IF NOT EXISTS esper ENGINE = Atomic")
    if client.query("SELECT engine FROM system.databases WHERE name = 'default'").result_rows == [("Overlay",)]:
        client.command("DETACH DATABASE default")
        client.command("ATTACH DATABASE default ENGINE = Memory")
    client.database = "esper"
