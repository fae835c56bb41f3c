"""The rollups of telemetry: they are filled by views, which a crash can part from their source, so they can be made
again from the rows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

KEY = "run_id, attempt, metric, site"
BUCKETS = {
    "telemetry_minutes": ("minute", "toStartOfMinute(toDateTime(time, 'UTC'))"),
    "telemetry_epochs": ("epoch", "epoch"),
}
"""Each rollup's bucket, and how it follows from a row."""
AGGREGATES = (
    "count() AS n, sum(value) AS total, min(value) AS least, max(value) AS most, "
    "quantilesTDigestState(0.5, 0.95, 0.99)(value) AS quantiles, "
    "min(step) AS first_step, max(step) AS last_step, min(time) AS earliest"
)


def undo(client: Client, which: str, given: Mapping[str, Any]) -> None:
    """Delete the rows of ``telemetry`` of which the condition ``which`` is true, and take them out of the rollups.

    The rows go last: whoever is killed before does it all again. ``given`` are the parameters of ``which``: a log and
    partitions, of which no two sinks have one at a time.
    """
    touched = f"touched_{hashlib.sha256(repr((given['log'], sorted(given['partitions']))).encode()).hexdigest()[:12]}"
    for table, (bucket, of_row) in BUCKETS.items():
        key = f"{KEY}, {bucket}"
        client.command(f"DROP TABLE IF EXISTS {touched}")
        client.command(
            f"CREATE TABLE {touched} ENGINE = Memory AS SELECT DISTINCT {KEY}, {of_row} AS {bucket} "
            f"FROM telemetry WHERE {which}",
            parameters=dict(given),
        )
        client.command(f"DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {touched})")
        client.command(
            f"INSERT INTO {table} SELECT {KEY}, {of_row} AS {bucket}, {AGGREGATES} FROM telemetry "
            f"WHERE NOT ({which}) AND ({KEY}, {of_row}) IN (SELECT {key} FROM {touched}) GROUP BY {key}",
            parameters=dict(given),
        )
        client.command(f"DROP TABLE {touched}")
    client.command(f"DELETE FROM telemetry WHERE {which}", parameters=dict(given))
