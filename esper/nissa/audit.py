"""Whether ClickHouse holds what the log holds: every record once, every row that follows from it, every rollup."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from esper.errors import DecodeError
from esper.events.telemetry import StepsMeasured
from esper.log.port import TELEMETRY, Log
from esper.log.records import event_of
from esper.nissa import telemetry
from esper.nissa.rollups import BUCKETS, KEY
from esper.nissa.rows import TABLES, rows_of
from esper.nissa.sink import DONE, TOPICS
from esper.nissa.writing import payload

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client


@dataclass(frozen=True, slots=True)
class Finding:
    """A table against the log: how many rows it should have and has, and whether their digests agree."""

    table: str
    topic: str
    expected: int
    found: int
    agree: bool


def audit(client: Client, log: Log) -> Iterator[Finding]:
    """Compare every table with the log, and every rollup with the rows."""
    for topic in TOPICS:
        yield from _topic(client, log, topic)
    for table in BUCKETS:
        yield _rollup(client, table)


def _topic(client: Client, log: Log, topic: str) -> Iterator[Finding]:
    log_id, expected, digest = log.topic_id(topic), Counter[str](), 0
    for entry in log.since(topic, {}):
        expected[DONE[topic]] += 1
        place = f"{entry.position.partition}:{entry.position.offset}:"
        try:
            event = event_of(entry)
        except DecodeError:
            digest ^= _number(place)
            continue
        if isinstance(event.content, StepsMeasured):
            rows = "" if telemetry.check(event.content) else str(len(event.content.value))
            expected["telemetry"] += int(rows or 0)
            digest ^= _number(place + rows)
        else:
            expected.update(table for table, _ in rows_of(event, entry.record.key))
            digest ^= _number(f"{place}{payload(event)}")
    for table in (DONE[topic], *(("telemetry",) if topic == TELEMETRY else TABLES.get(topic, ()))):
        where = "log = {log:String}" + (" AND topic = {topic:String}" if table == "events" else "")
        given = {"log": log_id, "topic": topic}
        [(found,)] = client.query(f"SELECT count() FROM {table} WHERE {where}", parameters=given).result_rows
        same = table != DONE[topic] or digest == _digest(client, table, where, given)
        yield Finding(table, topic, expected[table], found, same and found == expected[table])


def _digest(client: Client, table: str, where: str, given: dict[str, str]) -> int:
    body = "payload" if table == "events" else "if(error = '', toString(rows), '')"
    text = f"concat(toString(partition), ':', toString(offset), ':', {body})"
    number = f"reinterpretAsUInt64(substring(reverse(SHA256({text})), 25))"
    query = f"SELECT groupBitXor({number}) FROM {table} WHERE {where}"
    return int(client.query(query, parameters=given).result_rows[0][0])


def _number(text: str) -> int:
    """The first eight bytes of the text's SHA-256, as a number."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _rollup(client: Client, table: str) -> Finding:
    """A rollup against its recomputation; sums agree but for the order of their additions."""
    bucket, of_row = BUCKETS[table]
    key = f"{KEY}, {bucket}"
    kept = (
        f"SELECT {key}, sum(n) AS n, sum(total) AS total, min(least) AS a, max(most) AS b FROM {table} GROUP BY {key}"
    )
    again = (
        f"SELECT {KEY}, {of_row} AS {bucket}, count() AS n, sum(value) AS total, min(value) AS a, max(value) AS b "
        f"FROM telemetry GROUP BY {key}"
    )
    alike = (
        "kept.n = again.n AND kept.a = again.a AND kept.b = again.b AND "
        "(abs(kept.total - again.total) <= 1e-9 * (1 + abs(again.total)) OR NOT isFinite(again.total))"
    )
    [(expected, found, same)] = client.query(
        f"SELECT (SELECT count() FROM ({again})), count(), countIf({alike}) "
        f"FROM ({kept}) AS kept LEFT JOIN ({again}) AS again USING ({key})"
    ).result_rows
    return Finding(table, TELEMETRY, expected, found, expected == found == same)
