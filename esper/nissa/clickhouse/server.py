"""A ClickHouse server: where it is, whether it can be used, and clients of it.

The server is asked its version before the client's library asks anything, in words that every version knows; so one
that is down, hangs, is too old, or does not let the user in is told in one line and in seconds.
"""

from __future__ import annotations

import logging
import re
from base64 import b64encode
from collections.abc import Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from esper.connections import clickhouse_settings
from esper.errors import AnalyticsError, UsageError
from esper.nissa.clickhouse.errors import remedied

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client
    from urllib3 import PoolManager

LEAST = (24, 8)
"""The oldest version that can be used."""
CONNECT_TIMEOUT, READ_TIMEOUT = 5, 300
"""Seconds to wait for an answer: the first ones, and those to queries."""
WRITING = {"async_insert": 0, "lightweight_deletes_sync": 2, "max_partitions_per_insert_block": 0}
"""What comes back is done, not queued, whatever the user's profile says; and clocks may be of as many months as they
like."""
_KNOWN_TWICE = {"insert_deduplicate": 0, "deduplicate_insert": "disable", "deduplicate_insert_select": "disable"}
"""A replicated table would drop a block that it has seen before, though its rows were deleted since. Which of these a
server has depends on its version."""
_UNKNOWN_DATABASE = 81


def open_server(url: str, *, limits: Mapping[str, int], write: bool, make: bool) -> Client:
    """A client of the server at ``url``, with ``limits`` as far as its user may set them, that may ``write`` or not.

    With ``make``, a database that does not exist is made. Raises UsageError for what is no such URL, AnalyticsError for
    a server that cannot be used, and ClickHouse's own errors.
    """
    given, pool = _given(url)
    _check_version(url, given, pool)
    logging.getLogger("clickhouse_connect").addHandler(logging.NullHandler())  # what it logs, it raises too
    client = _client(given, pool, url, make=make)
    held = int(client.server_settings["readonly"].value)
    if write and held:
        raise AnalyticsError(
            f"{url}: user {given['username']} may only read; name one that may write in ESPER_CLICKHOUSE_USERNAME and "
            f"ESPER_CLICKHOUSE_PASSWORD"
        )
    for name, value in _settings(client, limits if held != 1 else {}, write, held).items():
        client.set_client_setting(name, value)
    return client


def _settings(client: Client, limits: Mapping[str, int], write: bool, held: int) -> dict[str, Any]:
    """What to set. Of a user who may only read ``held`` is 1, or 2 if settings can be set all the same."""
    if not write:
        return dict(limits) if held else {**limits, "readonly": 1}
    return {**limits, **WRITING, **{name: to for name, to in _KNOWN_TWICE.items() if name in client.server_settings}}


def _given(url: str) -> tuple[dict[str, Any], PoolManager]:
    """What the library needs to know, and the connections."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in ("clickhouse", "clickhouses") or not parts.hostname or port == -1 or parts.query:
        raise UsageError(
            f"{url}: no address of a database; use chdb:///FOLDER or clickhouse://HOST:PORT/NAME "
            f"(clickhouses:// with TLS), in ESPER_ANALYTICS"
        )
    if "@" in parts.netloc:  # which is printed
        raise UsageError("name user and password in ESPER_CLICKHOUSE_USERNAME and _PASSWORD, not in the address")
    settings = clickhouse_settings()
    secure = parts.scheme == "clickhouses"
    given = {
        "host": parts.hostname,
        "port": port or (8443 if secure else 8123),
        "database": parts.path.strip("/") or "esper",
        "interface": "https" if secure else "http",
        "username": settings.username,
        "password": settings.password.get_secret_value() if settings.password else "",
    }
    return given, _pool(given, str(settings.ca) if settings.ca else None)


def _pool(given: Mapping[str, Any], ca: str | None) -> PoolManager:
    """Connections that send nothing twice: the library sends an insert again if the connection is closed before the
    answer, but the rows may be there, and then the rollups would count them twice."""
    from clickhouse_connect.driver.httputil import check_env_proxy, get_pool_manager_options
    from urllib3 import PoolManager, ProxyManager
    from urllib3.exceptions import HTTPError, ProtocolError

    class Once(PoolManager):
        def request(self, *args: Any, **more: Any) -> Any:
            try:
                reply = super().request(*args, **more)
            except ProtocolError as error:
                raise HTTPError(str(error)) from error
            if reply.status < 300 and all(name.lower() == "x-clickhouse-progress" for name in reply.headers):
                reply.close()
                raise HTTPError("the connection was closed before the answer")
            return reply

    class OnceProxied(Once, ProxyManager):
        pass

    options = get_pool_manager_options(ca_cert=ca) | {"retries": False}
    proxy = check_env_proxy(given["interface"], given["host"], given["port"])
    if not proxy:
        return Once(**options)
    return OnceProxied(proxy if "://" in proxy else f"http://{proxy}", **options)


def _check_version(url: str, given: Mapping[str, Any], pool: PoolManager) -> None:
    """Raise AnalyticsError for what is no ClickHouse, does not let us in, or is too old."""
    from urllib3 import Timeout
    from urllib3.exceptions import HTTPError

    host = f"[{given['host']}]" if ":" in given["host"] else given["host"]
    key = b64encode(f"{given['username']}:{given['password']}".encode()).decode()
    try:
        reply = pool.request(
            "GET",
            f"{given['interface']}://{host}:{given['port']}/?query=SELECT%20version()",
            headers={"Authorization": f"Basic {key}"},
            timeout=Timeout(total=CONNECT_TIMEOUT),
            retries=False,
            redirect=False,
        )
        said = reply.data.decode(errors="replace").strip()
    except HTTPError as error:
        raise AnalyticsError(f"{url}: {remedied(error)}") from error
    version = re.match(r"(\d+)\.(\d+)[.\w]*$", said)
    if reply.status != 200 and (code := re.match(r"Code: (\d+)", said)):
        raise AnalyticsError(f"{url}: {remedied(said, int(code[1]))}")
    if reply.status != 200 or not version:
        raise AnalyticsError(
            f"{url}: this is no ClickHouse server, or not its HTTP port (usually 8123, with TLS 8443); it answers "
            f"{reply.status}: {said.partition(chr(10))[0][:80] or 'nothing'}"
        )
    if (int(version[1]), int(version[2])) < LEAST:
        raise AnalyticsError(
            f"{url}: its ClickHouse is {said}, which is too old; Esper needs {'.'.join(map(str, LEAST))} or newer "
            f"(without ESPER_ANALYTICS it uses the engine that it brings along)"
        )


def _client(given: Mapping[str, Any], pool: PoolManager, url: str, *, make: bool) -> Client:
    from clickhouse_connect.driver.binding import quote_identifier
    from clickhouse_connect.driver.exceptions import DatabaseError

    try:
        return _opened(given, pool)
    except DatabaseError as error:
        if error.code != _UNKNOWN_DATABASE:
            raise
    name = given["database"]
    if not make:
        raise AnalyticsError(f"{url}: there is no database {name}; esper analytics migrate makes it")
    with closing(_opened({**given, "database": None}, pool)) as client:
        client.command(f"CREATE DATABASE IF NOT EXISTS {quote_identifier(name)}")
    return _opened(given, pool)


def _opened(given: Mapping[str, Any], pool: PoolManager) -> Client:
    import clickhouse_connect
    from clickhouse_connect.driver.httpclient import HttpClient
    from urllib3 import Timeout

    client = clickhouse_connect.get_client(
        **given,
        pool_mgr=pool,
        connect_timeout=CONNECT_TIMEOUT,
        send_receive_timeout=CONNECT_TIMEOUT,
        autogenerate_session_id=False,  # a session whose query goes on after a lost connection is locked
    )
    assert isinstance(client, HttpClient)
    client.timeout = Timeout(connect=CONNECT_TIMEOUT, read=READ_TIMEOUT)
    return client
