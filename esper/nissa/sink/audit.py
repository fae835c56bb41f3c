"""Whether ClickHouse holds what the log holds: every record once, every row that follows from it, every rollup.

It is asked about what both can have. Records that the log does not hold any more are left out, and so are those that
have come since the database was filled, measurements that are old enough to be deleted, and rollups of such.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from esper.errors import DecodeError
from esper.events.telemetry import StepsMeasured
from esper.events.topics import ANALYSED, RUNS, TELEMETRY
from esper.log.exclusions import left_out, struck
from esper.log.port import Entry, Log
from esper.log.records import event_of
from esper.nissa.sink.deletions import DONE, done_of, of_topic, tables_of
from esper.nissa.sink.losses import former
from esper.nissa.sink.writing import payload
from esper.nissa.tables import telemetry
from esper.nissa.tables.rollups import BUCKETS, KEY
from esper.nissa.tables.rows import rows_of

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

AGAIN = 1.0
"""Seconds after which a rollup that does not agree is looked at again."""
_TTL = re.compile(r"\bTTL .*?(toInterval\w+\(\d+\))")
_HELD = (
    "log = {log:String} AND offset >= transform(partition, {partitions:Array(UInt16)}, {firsts:Array(UInt64)}, 0) AND "
    "toInt64(offset) <= transform(partition, {partitions:Array(UInt16)}, {lasts:Array(Int64)}, toInt64(-1))"
)


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """A table against the log: how many rows it should have and has, and whether their digests agree."""

    table: str
    topic: str
    expected: int
    found: int
    agree: bool


def audit(client: Client, log: Log) -> Iterator[Discrepancy]:
    """Compare every table with the log, as far as it is filled, and every rollup with the rows."""
    horizon = _horizon(client)
    for topic in ANALYSED:
        yield from _topic(client, log, topic, horizon)
    for table in BUCKETS:
        found = _rollup(client, table, horizon)
        if not found.agree:  # a sink of a server's database may be between the rows and the rollup
            time.sleep(AGAIN)
            found = _rollup(client, table, horizon)
        yield found


def kept(client: Client, log: Log) -> tuple[int, int]:
    """How many rows there are of records that the log does not hold any more, or that a log before it held; and how
    many rollups of rows that have expired."""
    rows = rollups = 0
    for topic in ANALYSED:
        bounds = log.bounds(topic)
        given = {
            "log": log.topic_id(topic),
            "topic": topic,
            "former": former(client, log.url, log.topic_id(topic), topic),
            "partitions": list(bounds),
            "firsts": [first for first, _ in bounds.values()],
        }
        gone = (
            "(log IN {former:Array(String)} OR log = {log:String} AND "
            "offset < transform(partition, {partitions:Array(UInt16)}, {firsts:Array(UInt64)}, 0))"
        )
        for table in tables_of(topic):
            query = f"SELECT count() FROM {table} FINAL WHERE {gone}{of_topic(table)}"
            rows += int(client.query(query, parameters=given).result_rows[0][0])
    for table, (bucket, of_row) in BUCKETS.items():
        left = f"SELECT DISTINCT {KEY}, {bucket} FROM {table}"
        held = f"SELECT DISTINCT {KEY}, {of_row} AS {bucket} FROM telemetry"
        query = f"SELECT count() FROM ({left}) AS a LEFT ANTI JOIN ({held}) AS b USING ({KEY}, {bucket})"
        rollups += int(client.query(query).result_rows[0][0])
    return rows, rollups


class _Expected:
    """What a topic's tables should hold."""

    def __init__(self, horizon: int) -> None:
        self._horizon = horizon
        self.rows, self.digest = Counter[str](), 0

    def add(self, entry: Entry) -> None:
        topic = entry.position.topic
        self.rows[DONE[topic]] += 1
        place = f"{entry.position.partition}:{entry.position.offset}:"
        try:
            event = event_of(entry)
        except DecodeError:
            self.digest ^= _number(place)
            return
        if topic == TELEMETRY:
            said = "0"
            if isinstance(event.content, StepsMeasured):
                said = "" if telemetry.check(event.content) else str(len(event.content.value))
            if isinstance(event.content, StepsMeasured) and said:
                times = np.asarray(event.content.times, dtype=np.int64) // 1000
                of_rows = times[np.asarray(event.content.at, dtype=np.int64)]
                self.rows["telemetry"] += int(np.count_nonzero(of_rows > self._horizon))
            self.digest ^= _number(place + said)
        else:
            with suppress(DecodeError):
                self.rows.update(table for table, _ in rows_of(event, topic, entry.record.key))
            self.digest ^= _number(f"{place}{event.link.hex() if event.link else ''}{payload(event)}")


def _topic(client: Client, log: Log, topic: str, horizon: int) -> Iterator[Discrepancy]:
    log_id, bounds = log.topic_id(topic), log.bounds(topic)
    done = done_of(client, log_id, topic, bounds)
    expected = _Expected(horizon)
    entries = log.since(topic, {partition: first - 1 for partition, (first, _) in bounds.items()})
    for entry in struck(entries, left_out(log)) if topic == RUNS else entries:
        if entry.position.offset <= done.get(entry.position.partition, -1):
            expected.add(entry)
    given = {
        "log": log_id,
        "topic": topic,
        "partitions": list(bounds),
        "firsts": [first for first, _ in bounds.values()],
        "lasts": [done[partition] for partition in bounds],
        "horizon": horizon,
    }
    for table in (DONE[topic], *tables_of(topic)[:-1]):
        where = _HELD + of_topic(table)
        if table == "telemetry":
            where += " AND toUnixTimestamp64Milli(time) > {horizon:Int64}"
        [(found,)] = client.query(f"SELECT count() FROM {table} WHERE {where}", parameters=given).result_rows
        same = table != DONE[topic] or expected.digest == _digest(client, table, where, given)
        yield Discrepancy(table, topic, expected.rows[table], found, same and found == expected.rows[table])


def _digest(client: Client, table: str, where: str, given: Mapping[str, Any]) -> int:
    body = "concat(link, payload)" if table == "events" else "if(error = '', toString(rows), '')"
    text = f"concat(toString(partition), ':', toString(offset), ':', {body})"
    number = f"reinterpretAsUInt64(substring(reverse(SHA256({text})), 25))"
    query = f"SELECT groupBitXor({number}) FROM {table} WHERE {where}"
    return int(client.query(query, parameters=dict(given)).result_rows[0][0])


def _number(text: str) -> int:
    """The first eight bytes of the text's SHA-256, as a number."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _horizon(client: Client) -> int:
    """Measurements up to this time, in ms since 1970, may be deleted by now, or within a day."""
    query = "SELECT engine_full FROM system.tables WHERE database = currentDatabase() AND name = 'telemetry'"
    [(engine,)] = client.query(query).result_rows
    told = _TTL.search(engine)
    if told is None:
        return -(1 << 62)
    [(horizon,)] = client.query(f"SELECT toUnixTimestamp(now() - {told[1]} + toIntervalDay(1)) * 1000").result_rows
    return int(horizon)


def _rollup(client: Client, table: str, horizon: int) -> Discrepancy:
    """A rollup against its recomputation; sums agree but for the order of their additions. Where rows may have expired
    there must not be more than the rollup counts."""
    bucket, of_row = BUCKETS[table]
    key = f"{KEY}, {bucket}"
    recent = "WHERE toUnixTimestamp(minute) * 1000 > {horizon:Int64}" if bucket == "minute" else ""
    stored = (
        f"SELECT {key}, sum(n) AS n, sum(total) AS total, min(least) AS a, max(most) AS b, min(earliest) AS since "
        f"FROM {table} {recent} GROUP BY {key}"
    )
    again = (
        f"SELECT {KEY}, {of_row} AS {bucket}, count() AS n, sum(value) AS total, min(value) AS a, max(value) AS b "
        f"FROM telemetry {recent} GROUP BY {key}"
    )
    expired = "stored.n > 0 AND toUnixTimestamp64Milli(stored.since) <= {horizon:Int64}"
    close = "1e-9 * (1 + again.n * greatest(abs(again.a), abs(again.b)))"
    alike = (
        "stored.n = again.n AND (NOT isFinite(again.total) OR "
        f"stored.a = again.a AND stored.b = again.b AND abs(stored.total - again.total) <= {close})"
    )
    [(expected, found, wrong)] = client.query(
        f"SELECT countIf(again.n > 0 AND NOT ({expired})), countIf(stored.n > 0 AND NOT ({expired})), "
        f"countIf(NOT if({expired}, stored.n >= again.n, {alike})) "
        f"FROM ({stored}) AS stored FULL JOIN ({again}) AS again USING ({key})",
        parameters={"horizon": horizon},
    ).result_rows
    return Discrepancy(table, TELEMETRY, expected, found, expected == found and not wrong)
