"""Notes which records ClickHouse will never hold, or could not be given again: the log's beginning is gone, or another
log has taken its place."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

logger = logging.getLogger("esper")


@dataclass(frozen=True, slots=True)
class Loss:
    """``records`` at most were never written; of a log that was ``replaced``, so many were and stay."""

    log: str
    topic: str
    partition: int
    records: int
    reason: str

    def __str__(self) -> str:
        if self.reason == "replaced":
            return (
                f"{self.topic}: there is another log at its address now; {self.records:,} records of the former "
                f"({self.log}) stay, and cannot be written anew"
            )
        return (
            f"{self.topic}/{self.partition}: the beginning of the log is gone; up to {self.records:,} records were "
            f"never written to ClickHouse"
        )


def losses(client: Client) -> list[Loss]:
    """All that were ever noted."""
    query = "SELECT log, topic, partition, records, reason FROM losses FINAL ORDER BY time, topic, partition"
    return [Loss(*row) for row in client.query(query).result_rows]


def note_expired(client: Client, log: str, topic: str, lost: Mapping[int, tuple[int, int]]) -> None:
    """Note and tell, once, for each partition where the log begins, and how many records before that are missing."""
    query = (
        "SELECT partition, max(offset) FROM losses "
        "WHERE log = {log:String} AND topic = {topic:String} AND reason = 'expired' GROUP BY partition"
    )
    found = client.query(query, parameters={"log": log, "topic": topic}).result_rows
    known = {int(partition): int(offset) for partition, offset in found}
    new = {partition: told for partition, told in lost.items() if told[0] > known.get(partition, 0)}
    for partition, (first, records) in new.items():
        _note(client, Loss(log, topic, partition, records, "expired"), first)


def note_log(client: Client, url: str, log: str, topic: str, table: str) -> None:
    """Note that the topic of the log at ``url`` is ``log``; tell, once, if it was another before."""
    known = _logs(client, url, topic)
    if log in known:
        return
    if known:
        where = "log = {log:String}" + (" AND topic = {topic:String}" if table == "events" else "")
        count = f"SELECT count() FROM {table} FINAL WHERE {where}"
        [(records,)] = client.query(count, parameters={"log": known[0], "topic": topic}).result_rows
        if records:
            _note(client, Loss(known[0], topic, 0, records, "replaced"), 0)
    client.insert("logs", [(_absolute(url), topic, log)], column_names=["url", "topic", "log"])


def former(client: Client, url: str, log: str, topic: str) -> list[str]:
    """The logs that the topic at ``url`` was before."""
    return [each for each in _logs(client, url, topic) if each != log]


def _logs(client: Client, url: str, topic: str) -> list[str]:
    """What the topic at ``url`` is and was, the newest first."""
    query = "SELECT log FROM logs WHERE url = {url:String} AND topic = {topic:String} ORDER BY time DESC"
    given = {"url": _absolute(url), "topic": topic}
    return [str(found) for (found,) in client.query(query, parameters=given).result_rows]


def _note(client: Client, loss: Loss, offset: int) -> None:
    row = (loss.log, loss.topic, loss.partition, offset, loss.records, loss.reason)
    client.insert("losses", [row], column_names=["log", "topic", "partition", "offset", "records", "reason"])
    logger.warning("%s", loss)


def _absolute(url: str) -> str:
    """The URL whatever folder a command is run in."""
    path = url.removeprefix("sqlite:///")
    return url if path == url else f"sqlite:///{Path(path).absolute()}"
