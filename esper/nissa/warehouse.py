"""ClickHouse, in this process or on a server: opening a database by its URL, and its errors in our words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from esper.connections import clickhouse_settings
from esper.errors import AnalyticsError, UsageError

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

EMBEDDED = "chdb:///"
LIMITS = {"max_execution_time": 60, "max_memory_usage": 4 << 30, "max_result_rows": 10_000_000}
"""Of a query: seconds, bytes, rows."""


def connect(url: str, *, limits: bool = False, write: bool = True) -> Client:
    """A client of the database at ``url``: ``chdb:///FOLDER`` in this process, or ``clickhouse://HOST:PORT/NAME``.

    With ``limits`` its queries have those of LIMITS; without ``write`` they can change nothing. An engine in this
    process allows no other process to open the same folder. Raises UsageError for another URL and AnalyticsError if
    the database cannot be opened.
    """
    import clickhouse_connect

    given: dict[str, Any] = {**(LIMITS if limits else {}), **({} if write else {"readonly": 1})}
    with told(url):
        if url.startswith(EMBEDDED):
            folder = Path(url.removeprefix(EMBEDDED))
            folder.mkdir(parents=True, exist_ok=True)
            return clickhouse_connect.get_client(interface="chdb", path=str(folder), settings=given)
        return clickhouse_connect.get_client(**_server(url), settings=given)


def _server(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    if parts.scheme not in ("clickhouse", "clickhouses") or not parts.hostname:
        raise UsageError(
            f"{url}: no address of a database; use chdb:///FOLDER or clickhouse://HOST:PORT/NAME "
            f"(clickhouses:// with TLS), with ESPER_ANALYTICS or --analytics"
        )
    if "@" in parts.netloc:  # which is printed
        raise UsageError("name user and password in ESPER_CLICKHOUSE_USERNAME and _PASSWORD, not in the address")
    given = clickhouse_settings()
    secure = parts.scheme == "clickhouses"
    return {
        "host": parts.hostname,
        "port": parts.port or (8443 if secure else 8123),
        "database": parts.path.strip("/") or "esper",
        "secure": secure,
        "username": given.username,
        "password": given.password.get_secret_value() if given.password else "",
        "ca_cert": str(given.ca) if given.ca else None,
        "connect_timeout": 5,
    }


@contextmanager
def told(url: str) -> Iterator[None]:
    """ClickHouse's errors as AnalyticsError: its first line, and where."""
    from clickhouse_connect.driver.exceptions import ClickHouseError

    try:
        yield
    except ClickHouseError as error:
        raise AnalyticsError(f"{url}: {_line(str(error))}") from error


def _line(text: str) -> str:
    """The one line of ClickHouse's message that says what is wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else "it does not say what is wrong"
