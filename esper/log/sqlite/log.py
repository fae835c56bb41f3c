"""The embedded log: one SQLite file that many threads and processes of a machine share.

It keeps what Kafka would: topics, partitions, positions, keys, headers, transactions across topics, and the
fencing of a run's former writer. Transactions are serial and offsets are given out inside them, so offsets
are in the order of commits.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from heapq import merge
from itertools import groupby
from operator import attrgetter, itemgetter
from pathlib import Path
from types import NoneType
from typing import Any

import apsw

from esper.errors import DecodeError, Fenced, LogError, SequenceConflict, SequenceGap
from esper.events.encoding.codec import maker
from esper.events.encoding.schemas import UNKNOWN, Schema, name_of, schema_from_json
from esper.events.runs import CheckpointCommitted
from esper.events.topics import RUNS, SIGNALS
from esper.log.checks import check_signal, check_sizes, following, start_offset
from esper.log.headers import pack, unpack
from esper.log.partitions import partition_of
from esper.log.port import Counted, Entry, Position, Record, utc
from esper.log.sqlite.checksums import checksum, checksum_of_schema
from esper.log.sqlite.database import Database
from esper.log.sqlite.share import LockedShare

POLL = 0.1
"""Seconds between two looks of ``follow`` at the log's end."""
_position, _record, _entry = maker(Position), maker(Record), maker(Entry)
CHUNK_ROWS, CHUNK_BYTES = 1000, 4 << 20
"""What is fetched at a time, at most (but for one record)."""

_SELECT = """
SELECT offset, schema, value, headers, timestamp, epoch, sequence FROM records
WHERE stream = ? AND offset > ? AND offset <= ? ORDER BY offset LIMIT ?
"""
_NEWEST = """
SELECT offset FROM records WHERE stream = (SELECT id FROM streams WHERE topic = ? AND key = ?)
AND schema IN (SELECT value FROM json_each(?)) ORDER BY offset DESC LIMIT 1
"""
_KINDS = frozenset((bytes, epoch, number) for epoch in (int, NoneType) for number in (int, NoneType))
"""Types of a record's value, epoch and sequence number."""
_fields = attrgetter(*(field.name for field in fields(Record)))
_offset = attrgetter("position.offset")


class SqliteLog:
    """The log in the SQLite file at ``path``, which is made when first used."""

    def __init__(self, url: str, path: Path) -> None:
        self.url = url
        self.database = Database(path)
        self._schemas: dict[int, tuple[Schema, None]] = {}

    @property
    def log_id(self) -> str:
        """The UUID that this log was given when it was created."""
        with self.database.session() as connection:
            return str(connection.execute("SELECT id FROM log").get)

    def topic_id(self, topic: str) -> str:
        """The log's own id: no topic of a file is ever made anew."""
        return self.log_id

    def open_writer(self, run_id: str, *, copied: int | None = None) -> SqliteWriter:
        """See ``Log.open_writer``: the epoch is raised in the table ``writers``, where an append compares its own."""
        with self.database.transaction() as connection:
            epoch, sequence, offset = connection.execute(
                "INSERT INTO writers VALUES (?1, ?2 + 1, 0, -1) "
                "ON CONFLICT DO UPDATE SET epoch = max(epoch, ?2) + 1 RETURNING epoch, sequence, offset",
                (run_id, copied or 0),
            ).get
        return SqliteWriter(self, run_id, epoch, sequence, offset, copied)

    def counted(self, run_id: str) -> Counted | None:
        """See ``Log.counted``: what the table ``writers`` says; zeros for a run without a writer, or if that is
        damaged."""
        with self.database.session() as connection:
            row = connection.execute("SELECT epoch, sequence FROM writers WHERE run_id = ?", (run_id,)).get
        return Counted(*row) if row and all(isinstance(each, int) for each in row) else Counted(0, 0)

    def signal(self, record: Record) -> Position:
        """Append one record. A signal whose ``ce_id`` its key already has is not written again: its position
        is returned, or SequenceConflict raised if its bytes differ."""
        check_signal(record)
        identity = dict(record.headers).get("ce_id") if record.topic == SIGNALS else None
        with self.database.transaction() as connection:
            if identity is None:
                return insert(connection, [record])[0]
            stream, partition = _stream(connection, record.topic, record.key)
            known = connection.execute(
                "SELECT offset, value FROM signals JOIN records USING (stream, offset) WHERE stream = ? AND id = ?",
                (stream, identity),
            ).get
            if known is None:
                position = insert(connection, [record])[0]
                connection.execute("INSERT INTO signals VALUES (?, ?, ?)", (stream, identity, position.offset))
                return position
            if known[1] != record.value:
                raise SequenceConflict(f"{record.key}: another signal has the id {identity.decode()}; use a new nonce")
            return Position(SIGNALS, partition, known[0])

    def read(self, topic: str, key: str | None = None, after: Position | None = None) -> Iterator[Entry]:
        """See ``Log.read``; the end is that at the call. A record that is damaged comes as an entry with an
        ``error``."""
        start = start_offset(topic, key, after)
        return self._entries(topic, key, start, self._end())

    def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        """See ``Log.bounds``. The first offset is always 0: nothing is ever deleted."""
        with self.database.session() as connection:
            ends: list[Any] = connection.execute(
                "SELECT partition, max((SELECT max(offset) FROM records WHERE stream = id)) FROM streams "
                "WHERE topic = ? GROUP BY partition",
                (topic,),
            ).fetchall()
        return {partition: (0, end + 1) for partition, end in ends if end is not None}

    def since(self, topic: str, offsets: Mapping[int, int]) -> Iterator[Entry]:
        """See ``Log.since``; the end is that at the call."""
        return self._entries(topic, None, -1, self._end(), offsets)

    def follow(
        self, topic: str, key: str | None = None, after: Position | None = None, *, stop: threading.Event
    ) -> Iterator[Entry]:
        """See ``Log.follow``; looks for more every POLL seconds."""
        return self._following(topic, key, start_offset(topic, key, after), stop)

    def share(self, topics: Sequence[str], group: str) -> LockedShare:
        """See ``Log.share``: who has the lock file of ``group``, beside the log, has all partitions."""
        path = self.database.path
        return LockedShare(path.with_name(f"{path.name}.{group}.lock"), topics)

    def checkpointed(self, run_id: str) -> Position | None:
        """See ``Log.checkpointed``: looked for in the file."""
        with self.database.session() as connection:
            numbers: list[int] = [number for (number,) in connection.execute("SELECT id FROM schemas")]
            name = name_of(CheckpointCommitted)
            kinds = [each for each in numbers if (self._schemas.get(each) or self._schema(each))[0].name == name]
            offset = connection.execute(_NEWEST, (RUNS, run_id, json.dumps(kinds))).get
        return None if offset is None else Position(RUNS, partition_of(run_id), offset)

    def close(self) -> None:
        """Close the file's connections."""
        self.database.close()

    def _following(self, topic: str, key: str | None, start: int, stop: threading.Event) -> Iterator[Entry]:
        while not stop.is_set():
            end = self._end()
            if end <= start:
                stop.wait(POLL)
                continue
            for entry in self._entries(topic, key, start, end):
                if stop.is_set():
                    return
                yield entry
            start = end

    def _end(self) -> int:
        with self.database.session() as connection:
            return int(connection.execute("SELECT coalesce(max(offset), -1) FROM records").get)

    def _entries(
        self, topic: str, key: str | None, start: int, end: int, starts: Mapping[int, int] | None = None
    ) -> Iterator[Entry]:
        """What lies after ``start``, up to ``end``, or after a partition's own start; no transaction is open while the
        caller works."""
        with self.database.session() as connection:
            streams: list[Any] = connection.execute(
                "SELECT partition, id, CAST(key AS BLOB) FROM streams WHERE topic = ? AND key = coalesce(?, key) "
                "ORDER BY partition",
                (topic, key),
            ).fetchall()
        for partition, group in groupby(streams, itemgetter(0)):
            members = [(stream, bytes(of_key).decode(errors="backslashreplace")) for _, stream, of_key in group]
            share = len(members)
            after = (starts or {}).get(partition, start)
            parts = [self._stream(topic, partition, *member, after, end, share) for member in members]
            yield from parts[0] if share == 1 else merge(*parts, key=_offset)

    def _stream(
        self, topic: str, partition: int, stream: int, key: str, start: int, end: int, share: int
    ) -> Iterator[Entry]:
        while rows := self._chunk(stream, start, end, share):
            for row in rows:
                offset, schema_id, value, headers, timestamp, epoch, sequence = row
                schema, error = self._schemas.get(schema_id) or self._schema(schema_id)
                try:
                    unpacked, time_ = unpack(headers), utc(timestamp)
                    if (type(value), type(epoch), type(sequence)) not in _KINDS:
                        raise DecodeError("its columns hold other kinds of values than were written")
                except (DecodeError, TypeError, ValueError, OverflowError, OSError) as damage:
                    error = f"it is damaged ({damage})"
                    unpacked, time_, epoch, sequence = (), utc(0), None, None
                    value = value if isinstance(value, bytes) else b""
                record = _record(topic, key, schema, value, unpacked, epoch, sequence)
                yield _entry(_position(topic, partition, offset), time_, record, error)
            if not start < rows[-1][0]:  # it would go round for ever
                raise LogError(f"{self.database.path}: damaged, for its records are not in their order; restore it")
            start = rows[-1][0]

    def _chunk(self, stream: int, start: int, end: int, share: int) -> list[tuple[Any, ...]]:
        """The stream's next rows; ``share`` streams are read at once."""
        rows: list[tuple[Any, ...]] = []
        size = 0
        with self.database.session() as connection:
            cursor = connection.execute(_SELECT, (stream, start, end, 1 + CHUNK_ROWS // share))
            for row in cursor:
                rows.append(row)
                size += len(row[2]) if isinstance(row[2], bytes) else 0
                if size > CHUNK_BYTES // share:
                    break
            cursor.close()
        return rows

    def _schema(self, schema_id: int) -> tuple[Schema, str | None]:
        """A stored schema, or UNKNOWN and why it cannot be had."""
        with self.database.session() as connection:
            text = connection.execute("SELECT CAST(json AS BLOB) FROM schemas WHERE id = ?", (schema_id,)).get
        if not text:
            return UNKNOWN, "the record was written without a schema; it is no event of Esper's"
        try:
            known = self._schemas[schema_id] = schema_from_json(text.decode(errors="backslashreplace")), None
            return known
        except DecodeError as error:
            return UNKNOWN, str(error)


class SqliteWriter:
    """The one writer of a run; see ``esper.log.port.Writer``. Threads that share it take turns."""

    def __init__(self, log: SqliteLog, run_id: str, epoch: int, sequence: int, offset: int, copied: int | None) -> None:
        self.run_id, self.epoch, self.sequence = run_id, epoch, sequence
        self._log, self._copied = log, copied
        self._last = sequence
        self._offset = offset
        self._lock = threading.Lock()
        self._closed = False

    def append(self, records: Sequence[Record]) -> Position | None:
        """See ``Writer.append``. Where a COMMIT seems to fail the file is looked at: no WriterLost is raised."""
        with self._lock:
            if self._closed:
                raise LogError(f"run {self.run_id}: its writer was closed; open another")
            last = following(records, self.run_id, self.epoch, self._last, self._copied)
            check_sizes(records)
            if not records:
                return None
            try:
                positions = self._commit(records, last)
            except (Fenced, SequenceGap):
                raise
            except LogError:
                # COMMIT may have done its work and failed afterwards: look rather than write twice.
                found = self._committed(records)
                if found is None:
                    raise
                positions = found
            self._last, self._offset = last, positions[-1].offset
            return next((position for position in reversed(positions) if position.topic == RUNS), None)

    def follow(self, sequence: int) -> None:
        """See ``Writer.follow``."""
        self.sequence = self._last = sequence

    def close(self) -> None:
        """See ``Writer.close``."""
        self._closed = True

    def _commit(self, records: Sequence[Record], last: int) -> list[Position]:
        with self._log.database.transaction() as connection:
            offset = self._reached(connection)
            if offset != self._offset:  # an append whose COMMIT seemed to fail, and nobody could look then
                return self._those_at(connection, records, offset)
            positions = insert(connection, records)
            connection.execute(
                "UPDATE writers SET sequence = ?, offset = ? WHERE run_id = ?",
                (last, positions[-1].offset, self.run_id),
            )
        return positions

    def _committed(self, records: Sequence[Record]) -> list[Position] | None:
        """The positions of ``records`` if they are in the log after all."""
        with self._log.database.session() as connection:
            offset = self._reached(connection)
            return None if offset == self._offset else self._those_at(connection, records, offset)

    def _reached(self, connection: apsw.Connection) -> int:
        """The offset of the last record that this writer, or one before it, committed; raises Fenced."""
        row = connection.execute("SELECT epoch, offset FROM writers WHERE run_id = ?", (self.run_id,)).get
        if row is None or row[0] < self.epoch:
            raise LogError(f"{self._log.database.path}: the log was replaced by an older one; resume run {self.run_id}")
        if row[0] > self.epoch:
            raise Fenced(self.run_id, row[0])
        return int(row[1])

    def _those_at(self, connection: apsw.Connection, records: Sequence[Record], end: int) -> list[Position]:
        """The positions of ``records``, which must be the ones that end at offset ``end``."""
        rows: list[Any] = connection.execute(
            "SELECT topic, partition, offset, key, value FROM records JOIN streams ON streams.id = stream "
            "WHERE offset > ? AND offset <= ? ORDER BY offset",
            (end - len(records), end),
        ).fetchall()
        positions = [Position(topic, partition, offset) for topic, partition, offset, _, _ in rows]
        if [(topic, key, value) for topic, _, _, key, value in rows] != [(r.topic, r.key, r.value) for r in records]:
            raise SequenceGap(
                f"run {self.run_id}: the append before this one was committed after all; read it and go on"
            )
        return positions


def insert(connection: apsw.Connection, records: Sequence[Record]) -> list[Position]:
    """Insert ``records`` at the end, inside the caller's transaction; topics and schemas come into being."""
    first: int = connection.execute("SELECT coalesce(max(offset), -1) + 1 FROM records").get
    streams: dict[tuple[str, str], tuple[int, int]] = {}
    schemas: dict[str, int] = {}
    now = time.time_ns() // 1_000_000
    positions, rows, checks = [], [], []
    for offset, record in enumerate(records, first):
        topic, key, schema, value, headers, epoch, sequence = _fields(record)
        if (topic, key) not in streams:
            streams[topic, key] = _stream(connection, topic, key)
        if schema.fingerprint not in schemas:
            schemas[schema.fingerprint] = _schema_id(connection, schema)
        stream, partition = streams[topic, key]
        positions.append(Position(topic, partition, offset))
        packed = pack(headers)
        rows.append((offset, stream, schemas[schema.fingerprint], value, packed, now, epoch, sequence))
        checks.append((offset, checksum(topic, key, schema.fingerprint, value, packed, now, epoch, sequence)))
    connection.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
    connection.executemany("INSERT INTO sums VALUES (?, ?)", checks)
    return positions


def _stream(connection: apsw.Connection, topic: str, key: str) -> tuple[int, int]:
    """The id and the partition of a key of a topic."""
    partition = partition_of(key)
    known = connection.execute("SELECT id FROM streams WHERE topic = ? AND key = ?", (topic, key)).get
    insertion = "INSERT INTO streams (topic, key, partition) VALUES (?, ?, ?) RETURNING id"
    return int(known or connection.execute(insertion, (topic, key, partition)).get), partition


def _schema_id(connection: apsw.Connection, schema: Schema) -> int:
    known = connection.execute("SELECT id FROM schemas WHERE fingerprint = ?", (schema.fingerprint,)).get
    if known:
        return int(known)
    insertion = "INSERT INTO schemas (fingerprint, json) VALUES (?, ?) RETURNING id"
    number = int(connection.execute(insertion, (schema.fingerprint, schema.json)).get)
    connection.execute("INSERT INTO sums VALUES (?, ?)", (-number, checksum_of_schema(schema.json)))
    return number
