"""From the log to ClickHouse, each record once.

A batch's rows are written first, and last the records themselves, to ``events`` or ``telemetry_batches``: what that
table holds of a partition is what has been done. So whoever begins deletes all that lies beyond it, which a sink that
was killed may have left, and goes on behind it. Of the log no more is read than one batch ahead of what is written.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from esper.errors import LogError, UsageError
from esper.events.topics import ANALYSED, ASSETS, PARTITIONS, RUNS, TELEMETRY
from esper.log.exclusions import left_out, struck
from esper.log.ordering import Excluded
from esper.log.port import Entry, Log, Position
from esper.nissa.clickhouse.errors import told
from esper.nissa.sink.dead_letters import Letters
from esper.nissa.sink.deletions import DONE, done_of, note, undo_beyond
from esper.nissa.sink.losses import note_expired, note_log
from esper.nissa.sink.pacing import MOST_BYTES, Bounds, adapted
from esper.nissa.sink.prefetch import ahead, uncollected
from esper.nissa.sink.writing import Block, blocks, insert

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

__all__ = ["DONE", "Sink"]
logger = logging.getLogger("esper")
EVENTS, BATCHES = Bounds(1_000, 5_000), Bounds(20, 10_000)
"""Records written at once: events, and batches of measurements."""
LOOK = 30.0
"""Seconds between two looks whether the log's topics are still those that were begun."""
_NOWHERE = 1 << 62
"""Behind every offset: of partitions that are not to be read."""


class Sink:
    """Fills one database from one log. There may be only one for a database and partition at a time.

    ``name`` is the database's in errors. Its methods raise AnalyticsError and LogError; what was begun before has then
    to be begun again.
    """

    def __init__(self, client: Client, log: Log, name: str = "ClickHouse") -> None:
        self._client, self._log, self._name = client, log, name
        self._ids: dict[str, str] = {}
        self._looked = time.monotonic()
        self._letters = Letters(log)
        self._out: Excluded = frozenset()  # of records that operators took out of runs
        self._sizes = {topic: _bounds(topic).most for topic in ANALYSED}
        self.places: dict[str, dict[int, int]] = {topic: {} for topic in ANALYSED}
        """By topic and partition, of those that it has begun, the last offset that is done; -1: none."""

    def catch_up(self) -> int:
        """Write what the log holds and the database does not; returns the number of records."""
        self.begin_all()
        return self.advance()

    def begin_all(self) -> None:
        """Begin every partition of every topic."""
        for topic in ANALYSED:
            self.begin(topic, range(PARTITIONS))

    def begin(self, topic: str, partitions: Collection[int]) -> None:
        """Find out what is done of these partitions, and undo what lies beyond; ``advance`` fills them from now on."""
        with self._told():
            log_id = self._ids[topic] = self._log.topic_id(topic)
            if topic == RUNS:  # records are taken out of runs alone
                self._out = left_out(self._log)
            note_log(self._client, self._log.url, log_id, topic, DONE[topic])
            done = done_of(self._client, log_id, topic, partitions)
            self._compare(topic, done)
            undo_beyond(self._client, log_id, topic, done)
        self.places[topic] |= done

    def leave(self, topic: str, partitions: Collection[int]) -> None:
        """Forget these partitions: another sink fills them from now on."""
        self.places[topic] = {each: done for each, done in self.places[topic].items() if each not in partitions}

    def advance(self, stop: threading.Event | None = None, still: Callable[[], bool] = lambda: True) -> int:
        """Write what has come since; returns the number of records.

        Ends early, before the next batch, if ``stop`` is set or ``still`` answers no: what was begun may be another
        sink's now.
        """
        goes_on = still if stop is None else lambda: not stop.is_set() and still()
        with self._told():
            self._look_at_ids()
            return sum(self._fill(topic, goes_on) for topic in ANALYSED)

    def go_back(self, position: Position | None = None) -> None:
        """Have the record at ``position`` and all behind it in its partition written anew, or all that the log holds.

        What it does not hold any more stays. To be called before anything is begun: it is done then, and whoever is
        killed before that has noted it. Raises UsageError for a position that no sink reads.
        """
        if position is not None and (position.topic not in ANALYSED or position.partition >= PARTITIONS):
            raise UsageError(f"{position}: no such partition; its topic is one of {', '.join(ANALYSED)}")
        if position is not None:
            _, end = self._log.bounds(position.topic).get(position.partition, (0, 0))
            if position.offset >= end:
                raise UsageError(
                    f"{position}: the log ends at offset {end} there; esper events prints where events are"
                )
        with self._told():
            for topic in ANALYSED if position is None else (position.topic,):
                firsts = {partition: first - 1 for partition, (first, _) in self._log.bounds(topic).items()}
                places = dict.fromkeys(range(PARTITIONS), -1) | firsts
                if position is not None:
                    self._check_whole(position)
                    places = {position.partition: max(places[position.partition], position.offset - 1)}
                note(self._client, self._log.topic_id(topic), topic, places)

    def _check_whole(self, position: Position) -> None:
        """Raise UsageError if measurements behind ``position`` have expired: their rollups could not be made anew."""
        if position.topic != TELEMETRY:
            return
        behind = "log = {log:String} AND partition = {partition:UInt16} AND offset >= {offset:UInt64}"
        given = {"log": self._log.topic_id(TELEMETRY), "partition": position.partition, "offset": position.offset}
        [(missing,)] = self._client.query(
            f"SELECT (SELECT sum(rows) FROM telemetry_batches FINAL WHERE {behind}) > uniqExact(offset, row) "
            f"FROM telemetry WHERE {behind}",
            parameters=given,
        ).result_rows
        if missing:
            raise UsageError(
                f"{position}: measurements behind it have expired; --from BEGINNING keeps their rollups right"
            )

    def rebuild(self) -> int:
        """Write all that the log holds anew; what it does not hold any more stays. Returns the number of records."""
        self.go_back()
        return self.catch_up()

    def probe(self) -> None:
        """See whether database and log answer at all."""
        with self._told():
            self._client.command("SELECT 1")
            self._log.topic_id(RUNS)

    def _fill(self, topic: str, goes_on: Callable[[], bool]) -> int:
        written, places = 0, self.places[topic]
        if not places or not goes_on():
            return 0
        for batch, made in ahead(self._made(topic, dict(places)), goes_on):
            if topic not in (RUNS, ASSETS):  # which are kept for ever, and whose transactions leave gaps
                self._look_at_gap(topic, batch)
            began = time.monotonic()
            insert(self._client, made)
            seconds = time.monotonic() - began
            self._sizes[topic] = adapted(self._sizes[topic], len(batch), seconds, _bounds(topic))
            places |= {entry.position.partition: entry.position.offset for entry in batch}
            written += len(batch)
        return written

    def _made(self, topic: str, places: dict[int, int]) -> Iterator[tuple[list[Entry], list[Block]]]:
        """Batches of what has come since, and what they are in the tables."""
        entries = iter(self._log.since(topic, dict.fromkeys(range(PARTITIONS), _NOWHERE) | places))
        if topic == RUNS:
            entries = struck(entries, self._out)
        while True:
            with uncollected():
                if not (batch := _batch(entries, self._sizes[topic])):
                    return
                made = blocks(self._ids[topic], topic, batch, self._letters.unreadable)
            yield batch, made

    def _look_at_ids(self) -> None:
        """Raise LogError, now and then, for a topic that was made anew: what was begun is of another log."""
        if time.monotonic() - self._looked < LOOK:
            return
        for topic, log_id in self._ids.items():
            if self._log.topic_id(topic) != log_id:
                raise LogError(f"{self._log.url}: {topic} was made anew; it is begun from its beginning")
        self._out = left_out(self._log)
        self._looked = time.monotonic()

    def _look_at_gap(self, topic: str, batch: list[Entry]) -> None:
        """Where the log is cut off faster than it is written, say so."""
        first: dict[int, int] = {}
        for entry in batch:
            first.setdefault(entry.position.partition, entry.position.offset)
        before = {partition: self.places[topic][partition] for partition in first}
        if any(offset > before[partition] + 1 for partition, offset in first.items()):
            self._compare(topic, before)

    def _compare(self, topic: str, done: Mapping[int, int]) -> None:
        """Tell what the log does not hold any more though it is not done, and if it ends before what is."""
        lost = {}
        for partition, (first, end) in self._log.bounds(topic).items():
            place = done.get(partition, first)
            if first > place + 1:
                lost[partition] = first, first - place - 1
            if place >= max(end, 1):
                logger.warning(
                    "%s/%d: the log ends before offset %d, but records up to %d were written: an older copy of it has "
                    "taken its place; esper analytics rebuild",
                    *(topic, partition, end, place),
                )
        if lost:
            note_expired(self._client, self._ids[topic], topic, lost)

    def _told(self) -> AbstractContextManager[None]:
        return told(self._name)


def _bounds(topic: str) -> Bounds:
    return BATCHES if topic == TELEMETRY else EVENTS


def _batch(entries: Iterator[Entry], size: int) -> list[Entry]:
    """The next ``size`` records, or fewer if they are large: all of a batch is in memory."""
    batch: list[Entry] = []
    room = MOST_BYTES
    for entry in entries:
        batch.append(entry)
        room -= len(entry.record.value)
        if len(batch) >= size or room <= 0:
            break
    return batch
