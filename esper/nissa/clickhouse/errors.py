"""ClickHouse's errors, and those of the way to it, in one line with what to do about them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from esper.errors import AnalyticsError

_SIGN_IN = "set ESPER_CLICKHOUSE_USERNAME and ESPER_CLICKHOUSE_PASSWORD"
_REMEDIES = {
    81: "esper analytics migrate makes the database",
    192: _SIGN_IN,
    193: _SIGN_IN,
    194: _SIGN_IN,
    516: _SIGN_IN,
    164: "esper sql --write allows changes",
    243: "free space on its disk",
    497: "grant it, or name another user in ESPER_CLICKHOUSE_USERNAME",
}
"""By ClickHouse's code of the error."""
_WRAPPED = re.compile(r"^.*?server response: (?=Code: )|\s*\(for url \S+\)$", re.DOTALL)


@contextmanager
def told(url: str) -> Iterator[None]:
    """ClickHouse's errors as AnalyticsError: its first line, where, and what to do if we know."""
    from clickhouse_connect.driver.exceptions import ClickHouseError
    from urllib3.exceptions import HTTPError

    try:
        yield
    except (ClickHouseError, HTTPError) as error:
        way = error if isinstance(error, HTTPError) else error.__cause__
        text = remedied(way) if isinstance(way, HTTPError) else remedied(str(error), getattr(error, "code", None))
        raise AnalyticsError(f"{url}: {text}") from error


def remedied(error: str | Exception, code: int | None = None) -> str:
    """What is wrong and what to do: by what ClickHouse says and its ``code``, or by what befell the connection."""
    if isinstance(error, Exception):
        return _of_connection(error)
    remedy = _REMEDIES.get(code or 0)
    return f"{line(error)}; {remedy}" if remedy else line(error)


def line(text: str) -> str:
    """The one line of ClickHouse's message that says what is wrong."""
    lines = [line.strip() for line in _WRAPPED.sub("", text).splitlines() if line.strip()]
    return lines[0] if lines else "it does not say what is wrong"


def _of_connection(error: Exception) -> str:
    from urllib3 import exceptions

    if isinstance(error, exceptions.MaxRetryError) and error.reason:
        error = error.reason
    if isinstance(error, exceptions.NameResolutionError):
        return "there is no such host; check ESPER_ANALYTICS"
    if isinstance(error, exceptions.NewConnectionError):
        reason = error.__cause__.strerror if isinstance(error.__cause__, OSError) else str(error)
        return f"nobody answers there ({reason}); start the server, or check ESPER_ANALYTICS"
    if isinstance(error, exceptions.TimeoutError):
        return "the server does not answer in time; look at the server, or check ESPER_ANALYTICS"
    if isinstance(error, exceptions.SSLError):
        return f"TLS fails ({line(str(error))}); clickhouse:// is without, ESPER_CLICKHOUSE_CA names who signed"
    return f"the connection was lost ({line(str(error))}); look at the server"
