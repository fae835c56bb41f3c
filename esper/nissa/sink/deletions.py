"""Deletes rows of ClickHouse that the sink has to write anew: those that a killed sink left, or all behind a given
offset.

A deletion goes on in the background after a kill, when the database is opened again, and a server goes on with an
insert whose sender is gone: they are waited for, since until then nobody can tell what has been written. Rows that
count as written are noted before they are deleted, so that a kill in between leaves no half of it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from esper.errors import AnalyticsError
from esper.events.topics import ANALYSED, TOPICS
from esper.nissa.tables.rollups import BUCKETS, undo

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

DONE = {topic: TOPICS[topic].tables[-1] for topic in ANALYSED}
"""The table that says what of a topic is done."""
SETTLE_TIMEOUT = 120.0
"""Seconds to wait for what was begun before."""
_BEYOND = (
    "log = {log:String} AND partition IN {partitions:Array(UInt16)} AND "
    "toInt64(offset) > transform(partition, {partitions:Array(UInt16)}, {offsets:Array(Int64)}, toInt64(-1))"
)
_UNFINISHED = (
    "SELECT table, latest_fail_reason FROM system.mutations "
    "WHERE database = currentDatabase() AND NOT is_done AND NOT is_killed AND table IN {tables:Array(String)} LIMIT 1"
)

_INSERTING = (
    "SELECT query_id FROM system.processes WHERE query_kind = 'Insert' AND current_database = currentDatabase()"
)


def tables_of(topic: str) -> tuple[str, ...]:
    """The tables that a topic's records fill, with the one last that says what is done."""
    return TOPICS[topic].tables


def of_topic(table: str) -> str:
    """What tells a topic's rows of ``table`` from another's, where more than one fills it."""
    return " AND topic = {topic:String}" if table == "events" else ""


def done_of(client: Client, log_id: str, topic: str, partitions: Collection[int]) -> dict[int, int]:
    """The last offset of each of these partitions that is done, -1 if none is; lower where a sink shall go back."""
    _settle(client, topic)
    where = "log = {log:String} AND partition IN {partitions:Array(UInt16)}"
    given = {"log": log_id, "topic": topic, "partitions": list(partitions)}

    def asked(column: str, table: str, more: str) -> dict[int, int]:
        query = f"SELECT partition, {column} FROM {table} WHERE {where}{more} GROUP BY partition"
        return {int(partition): int(offset) for partition, offset in client.query(query, parameters=given).result_rows}

    done = dict.fromkeys(partitions, -1) | asked("max(offset)", DONE[topic], of_topic(DONE[topic]))
    noted = asked("min(offset)", "undoing", " AND topic = {topic:String}")
    return {partition: min(offset, noted.get(partition, offset)) for partition, offset in done.items()}


def note(client: Client, log_id: str, topic: str, places: Mapping[int, int]) -> None:
    """Note that what lies beyond these offsets is to be deleted, whatever is done: the next to begin does it."""
    rows = [(log_id, topic, partition, offset) for partition, offset in places.items()]
    if rows:
        client.insert("undoing", rows, column_names=["log", "topic", "partition", "offset"])


def undo_beyond(client: Client, log_id: str, topic: str, done: Mapping[int, int]) -> None:
    """Delete the rows of records of these partitions that are not done, or not to be any more."""
    given = {"log": log_id, "topic": topic, "partitions": list(done), "offsets": list(done.values())}
    for table in tables_of(topic):
        which = _BEYOND + of_topic(table)
        if table == "telemetry" and _any(client, DONE[topic], _BEYOND, given):
            _forget(client, given)
        if not _any(client, table, which, given):
            continue
        if table == "telemetry":
            undo(client, which, given)
        else:
            client.command(f"DELETE FROM {table} WHERE {which}", parameters=given)
    noted = "log = {log:String} AND topic = {topic:String} AND partition IN {partitions:Array(UInt16)}"
    if _any(client, "undoing", noted, given):
        client.command(f"DELETE FROM undoing WHERE {noted}", parameters=given)


def _any(client: Client, table: str, which: str, given: Mapping[str, Any]) -> bool:
    return bool(client.command(f"SELECT count() FROM {table} WHERE {which}", parameters=dict(given)))


def _forget(client: Client, given: Mapping[str, Any]) -> None:
    """Delete the rollups of attempts all of whose batches are written anew: those of their rows that have expired
    would come a second time."""
    whole = (
        f"SELECT run_id, attempt FROM telemetry_batches GROUP BY run_id, attempt HAVING countIf(NOT ({_BEYOND})) = 0"
    )
    for table in BUCKETS:
        client.command(f"DELETE FROM {table} WHERE (run_id, attempt) IN ({whole})", parameters=dict(given))


def _settle(client: Client, topic: str) -> None:
    """Wait for inserts and deletions that were begun before; raises AnalyticsError if they do not end."""
    tables = [*tables_of(topic), "undoing", *BUCKETS]
    deadline = time.monotonic() + SETTLE_TIMEOUT
    begun = _inserting(client)
    while begun and (begun := begun & _inserting(client)):
        if time.monotonic() > deadline:
            raise AnalyticsError("an insert does not end; look at system.processes")
        time.sleep(0.05)
    while unfinished := client.query(_UNFINISHED, parameters={"tables": tables}).result_rows:
        [(table, reason)] = unfinished
        if time.monotonic() > deadline:
            raise AnalyticsError(
                f"a deletion from {table} does not end{f' ({reason})' if reason else ''}; look at system.mutations"
            )
        time.sleep(0.05)


def _inserting(client: Client) -> set[str]:
    """The inserts that the database is at, other sinks' too."""
    return {str(query) for (query,) in client.query(_INSERTING).result_rows}
