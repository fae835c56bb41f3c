"""Asking the database, read-only unless it is to be changed, and never of files or other machines."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from esper.errors import AnalyticsError, UsageError
from esper.nissa.warehouse import EMBEDDED, connect, told

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

FORMATS = {
    "table": "PrettyCompactMonoBlock",
    "json": "JSON",
    "csv": "CSVWithNames",
    "parquet": "Parquet",
    "arrow": "Arrow",
}
"""ClickHouse's names of the formats."""

_HARMLESS = frozenset(
    {"dictionary", "format", "generaterandom", "generateseries", "generate_series", "loop", "merge", "null", "numbers"}
    | {"numbers_mt", "primes", "values", "view", "viewifpermitted", "zeros", "zeros_mt"}
)
"""Table functions, some of them ordinary functions too, that stay within the database."""
_STATEMENT = re.compile(r"(\w+)")
_OUTSIDE = frozenset({"AttachQuery", "BackupQuery", "RestoreQuery", "SystemQuery"})
_CALLED = re.compile(r"^\s*Function(?:WithKeyValueArguments)? +(\S+)", re.MULTILINE)
_FILE = re.compile(r"^ Literal ", re.MULTILINE)
_KEPT = ("MergeTree", "Memory")
"""What the names of engines whose tables lie in the database end with."""


class Questions:
    """Answers questions about the database at ``url`` with clients of its own: one that has asked read-only once can
    never write again."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._clients: dict[bool, Client] = {}

    def answer(self, sql: str, parameters: Mapping[str, str], form: str, write: bool = False) -> bytes:
        """What ClickHouse answers, in the format ``form`` of FORMATS.

        ``{name:Type}`` in ``sql`` stands for a parameter. Raises UsageError for what is not allowed, and AnalyticsError
        with ClickHouse's own words.
        """
        client = self._client(write)
        self._check(client, sql, parameters)
        try:
            with told(self._url):
                return client.raw_query(sql, parameters=dict(parameters), fmt=None if write else FORMATS[form])
        except AnalyticsError:
            if self._url.startswith(EMBEDDED):  # what a failed query has written precedes the next one's answer
                client.raw_query("SELECT 0")
            raise

    def _client(self, write: bool) -> Client:
        if write not in self._clients:
            self._clients[write] = connect(self._url, limits=True, write=write)
        return self._clients[write]

    def _check(self, client: Client, sql: str, parameters: Mapping[str, str]) -> None:
        """Raise UsageError for what would reach files or other machines. Read-only the engine refuses most of it
        itself, but neither the function file('PATH') nor INTO OUTFILE. What a query calls is what the engine's own
        parser says: names can be quoted and escaped, and hidden from us behind comments and strings."""
        if ";" in sql.strip().rstrip(";"):  # what comes behind it would be executed, and unseen by us
            raise UsageError("ask one question at a time; a ; within a text goes into a parameter: --param NAME=VALUE")
        with told(self._url):
            tree = "\n".join(
                line for (line,) in client.query(f"EXPLAIN AST\n{sql}", parameters=dict(parameters)).result_rows
            )
            functions = {name for (name,) in client.query("SELECT lower(name) FROM system.table_functions").result_rows}
            engines = {name for (name,) in client.query("SELECT name FROM system.table_engines").result_rows}
        if _FILE.search(tree):
            raise UsageError(
                "INTO OUTFILE and FROM INFILE are not allowed; redirect: esper sql ... --format csv > FILE"
            )
        statement = _STATEMENT.match(tree)
        if statement is not None and statement[1] in _OUTSIDE:
            raise UsageError("this statement may reach files, which esper sql does not allow")
        for name in _CALLED.findall(tree):
            if name.lower() in functions - _HARMLESS or (name in engines and not name.endswith(_KEPT)):
                raise UsageError(f"{name} may reach files or other machines, which esper sql does not allow")
