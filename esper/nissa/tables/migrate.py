"""The database's tables: numbered SQL files, each applied once, in order."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from esper.errors import AnalyticsError

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

_DONE = """
CREATE TABLE IF NOT EXISTS migrations (
    number UInt32,
    statement UInt32 COMMENT 'how many of its statements are done',
    name String,
    digest String COMMENT 'SHA-256 of the file',
    time DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
) ENGINE = ReplacingMergeTree(statement) ORDER BY number
"""


_CREATED = re.compile(r"CREATE (?:TABLE|VIEW|MATERIALIZED VIEW) (\w+)")


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its number, its name, and its statements."""

    number: int
    name: str
    digest: str
    statements: tuple[str, ...]


def migrations() -> list[Migration]:
    """Every migration, in order."""
    found = sorted(
        (each for each in files("esper.nissa.tables.migrations").iterdir() if each.name.endswith(".sql")), key=str
    )
    return [_parsed(each.name, each.read_text("utf-8")) for each in found]


def migrate(client: Client) -> list[str]:
    """Apply what has not been applied yet; returns the names of the files that were.

    ClickHouse has no transaction over statements, so each one is noted when done, and may be done again if this was
    interrupted between the two. Raises AnalyticsError for a database of a newer Esper, or one whose migration was
    another file.
    """
    client.command(_DONE)
    query = "SELECT number, statement, digest FROM migrations FINAL ORDER BY number"
    done = {number: (statement, digest) for number, statement, digest in client.query(query).result_rows}
    known = migrations()
    if done and max(done) > known[-1].number:
        raise AnalyticsError(
            f"the database was made by a newer Esper (migration {max(done)}, this one knows {known[-1].number}); "
            f"update Esper, or name another database"
        )
    return [each.name for each in known if _apply(client, each, *done.get(each.number, (0, each.digest)))]


def drop(client: Client) -> None:
    """Drop every table and view of Esper's. Who is interrupted can do it again: what says that they are there is
    dropped last."""
    statements = [statement for each in migrations() for statement in each.statements]
    names = [match[1] for statement in statements if (match := _CREATED.match(statement))]
    for name in [*reversed(names), "migrations"]:
        client.command(f"DROP TABLE IF EXISTS {name} SYNC")


def _apply(client: Client, migration: Migration, begun: int, digest: str) -> bool:
    if digest != migration.digest:
        raise AnalyticsError(
            f"the database's migration {migration.name} was another file; esper analytics rebuild --drop makes all "
            f"tables anew, without what the log does not hold any more"
        )
    for place, statement in enumerate(migration.statements[begun:], begun + 1):
        client.command(_repeatable(statement))
        row = (migration.number, place, migration.name, migration.digest)
        client.insert("migrations", [row], column_names=["number", "statement", "name", "digest"])
    return begun < len(migration.statements)


def _repeatable(statement: str) -> str:
    for what in ("TABLE", "VIEW", "MATERIALIZED VIEW"):
        statement = statement.replace(f"CREATE {what} ", f"CREATE {what} IF NOT EXISTS ", 1)
    return statement


def _parsed(name: str, text: str) -> Migration:
    lines = [line for line in text.splitlines() if not line.strip().startswith("--")]
    statements = tuple(part.strip() for part in "\n".join(lines).split(";\n") if part.strip().rstrip(";"))
    return Migration(int(name[:4]), name, hashlib.sha256(text.encode()).hexdigest(), statements)
