"""Asking the database, read-only unless it is to be changed, and never of files or other machines."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import closing
from functools import cached_property
from typing import TYPE_CHECKING

from esper.errors import AnalyticsError, UsageError
from esper.nissa.clickhouse.warehouse import EMBEDDED, QUESTION, connect, told

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
BINARY = frozenset({"parquet", "arrow"})

_HARMLESS = frozenset(
    {"dictionary", "format", "generaterandom", "generateseries", "generate_series", "loop", "merge", "null", "numbers"}
    | {"numbers_mt", "primes", "values", "view", "viewifpermitted", "zeros", "zeros_mt"}
)
"""Table functions, some of them ordinary functions too, that stay within the database."""
_STATEMENTS = frozenset(
    {"SELECT", "WITH", "EXPLAIN", "SHOW", "DESCRIBE", "EXISTS", "CHECK", "INSERT", "CREATE", "REPLACE", "ALTER", "DROP"}
    | {"TRUNCATE", "RENAME", "EXCHANGE", "OPTIMIZE", "DELETE", "UPDATE", "KILL"}
)
_REFUSED = {
    re.compile(r"\b(INTO OUTFILE|FROM INFILE)\b"): "is not allowed; redirect: esper sql ... --format csv > FILE",
    re.compile(r"^(?!INSERT\b).*\b(FORMAT) \w+$"): "is not for the query to say; choose it with --format",
    re.compile(r"\b(SETTINGS?) +\w+ = "): "are Esper's to choose; leave them out",  # they name disks, and more
    re.compile(r"\b(SOURCE)\("): "may reach files or other machines, which esper sql does not allow",
    re.compile(r"\b(PARALLEL WITH)\b"): "is not allowed; ask one after the other",
    re.compile(r"\bENGINE = (?!\w*MergeTree\b|Memory\b|Atomic\b)(\w+)"): (
        "may reach files or other machines, which esper sql does not allow"
    ),
}
"""What is told of a word in a query."""
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|`((?:[^`\\]|\\.)*)`", re.DOTALL)
_WORD = re.compile(r"\w+")
_CALLED = re.compile(r"(\w+)\(")
_PLACE = re.compile(r"\{(\w+):([^}]+)\}")
_OURS = re.compile(r": In scope SELECT formatQuerySingleLine\(.*\)(?=\. \()", re.DOTALL)
_PLAIN = {"input_format_values_interpret_expressions": 0, "input_format_values_deduce_templates_of_expressions": 0}
"""Values are read as they are; computed, they could reach files, and the engine's parser does not look at them."""


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
        self._check(sql, parameters)
        client = self._client(write)
        more = {"settings": _PLAIN} if write else {"fmt": FORMATS[form]}
        try:
            with told(self._url):
                return client.raw_query(sql, parameters=dict(parameters), **more)
        except AnalyticsError:
            if self._url.startswith(EMBEDDED):  # what a failed query has written precedes the next one's answer
                client.raw_query("SELECT 0")
            raise

    def cancel(self) -> None:
        """End the questions about an embedded database that are being answered; from another thread."""
        with told(self._url), closing(connect(self._url)) as client:
            client.command(f"KILL QUERY WHERE Settings['log_comment'] = '{QUESTION}' ASYNC")

    def close(self) -> None:
        """Close the clients; another question opens new ones."""
        while self._clients:
            self._clients.popitem()[1].close()

    def _client(self, write: bool) -> Client:
        if write not in self._clients:
            self._clients[write] = connect(self._url, limits=True, write=write)
        return self._clients[write]

    @cached_property
    def _functions(self) -> tuple[frozenset[str], frozenset[str]]:
        """In lower case, the table functions that reach files or other machines, and the ordinary functions."""
        with told(self._url):
            found = self._client(False).query(
                "SELECT lower(name), true FROM system.table_functions UNION ALL "
                "SELECT lower(name), false FROM system.functions WHERE name ILIKE 'ai%'"
            )
        tables = {name for name, of_table in found.result_rows if of_table}
        return frozenset(tables - _HARMLESS), frozenset({name for name, of in found.result_rows if not of} | {"file"})

    def _check(self, sql: str, parameters: Mapping[str, str]) -> None:
        """Raise UsageError for what would reach files or other machines. Read-only the engine refuses most of it
        itself, but neither the function file('PATH') nor INTO OUTFILE."""
        if ";" in sql.strip().rstrip(";"):  # what comes behind it would be executed, and unseen by us
            raise UsageError("ask one question at a time; a ; within a text goes into a parameter: --param NAME=VALUE")
        places = dict(_PLACE.findall(sql))
        for name in parameters:
            if name not in places:  # the client would put its value into the text, quoted or not
                raise UsageError(f"the query has no parameter {name}; write it as {{{name}:String}}")
        plain = self._plain(sql)
        statement = _WORD.search(plain)
        if statement is not None and statement[0] not in _STATEMENTS:
            raise UsageError(f"esper sql does not allow {statement[0]}")
        for refused, why in _REFUSED.items():
            if found := refused.search(plain):
                raise UsageError(f"{found[1]} {why}")
        tables, ordinary = self._functions
        names = [value for name, value in parameters.items() if "Identifier" in places[name]]
        words = [*_WORD.findall(plain), *names]  # a function may be called, applied, or handed to another
        called = [name for name in _CALLED.findall(plain) if name.lower() in tables]
        for name in [*called, *(word for word in words if word.lower() in ordinary)]:
            raise UsageError(f"{name} may reach files or other machines, which esper sql does not allow")

    def _plain(self, sql: str) -> str:
        """The query as the engine's own parser writes it, for names can be quoted and escaped, and hidden from us
        behind comments and strings; without what strings say and without quotes. It is not executed, not even by
        EXPLAIN: an INTO OUTFILE at its end can be EXPLAIN's own."""
        try:
            with told(self._url):
                found = self._client(False).query("SELECT formatQuerySingleLine({sql:String})", parameters={"sql": sql})
        except AnalyticsError as error:
            raise AnalyticsError(_OURS.sub("", str(error))) from error
        return _QUOTED.sub(lambda quoted: quoted[1] or "", str(found.result_rows[0][0]))
