"""The port of the event log: what the embedded adapter and Kafka both offer, and nothing else.

A record's payload is the Avro body; how the schema travels beside it is the adapter's affair. Positions grow
but have holes and are never counted; a place in a run is its sequence number.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple, Protocol, Self

from esper.errors import UsageError
from esper.events.encoding.schemas import Schema

MAX_BYTES = 8 << 20
"""A record's key, value and headers together, at most; every log refuses a bigger one before it writes anything."""


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in a log, printed and accepted as ``TOPIC/PARTITION:OFFSET``."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """The position that ``text`` names; raises UsageError."""
        match = re.fullmatch(r"([A-Za-z0-9._-]+)/(\d+):(\d+)", text)
        if match is None:
            raise UsageError(f"{text!r} is not a position; write TOPIC/PARTITION:OFFSET, such as esper.runs/3:120")
        return cls(match[1], int(match[2]), int(match[3]))


@dataclass(frozen=True, slots=True)
class Record:
    """What is written: Avro body ``value`` of ``schema``; epoch and sequence on ``esper.runs`` only."""

    topic: str
    key: str
    schema: Schema
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    epoch: int | None = None
    sequence: int | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """What is read: a record, where it lies and when the log took it (UTC).

    ``error`` says why the record's schema is not known (a foreign frame, a schema id that the registry does not
    have); its ``record.value`` is then the raw bytes and ``record.schema`` is
    ``esper.events.encoding.schemas.UNKNOWN``.
    """

    position: Position
    timestamp: datetime
    record: Record
    error: str | None = None


@lru_cache(maxsize=256)
def utc(milliseconds: int) -> datetime:
    """An entry's timestamp, from the milliseconds since 1970 that logs keep; neighbours often have the same."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


class Counted(NamedTuple):
    """How many writers a run has had, and how many events these have committed."""

    epoch: int
    sequence: int


class Writer(Protocol):
    """The one writer of a run.

    ``epoch`` is its fencing epoch and ``sequence`` the run's last committed sequence number when it was opened.
    """

    run_id: str
    epoch: int
    sequence: int

    def append(self, records: Sequence[Record]) -> Position | None:
        """Commit ``records``, in one transaction that may span topics; blocks until they are durable.

        Returns where the last of the run's own events among them is, None if there is none: a log on Kafka would
        spend a tenth of the whole on learning where each is.

        Raises Fenced if a later writer has been opened and RecordTooLarge for a record beyond MAX_BYTES: nothing
        was written. WriterLost: nobody knows whether they were; open another writer and read the run. Any other
        LogError: the log could not take them, nothing was written and the call may be repeated.
        """

    def follow(self, sequence: int) -> None:
        """Append behind event ``sequence``, whatever the log counts: readers take the records beyond it for none of
        the run's events."""

    def close(self) -> None:
        """Take no more records: ``append`` raises LogError from now on. The log stays open."""


@dataclass(frozen=True, slots=True)
class ShareChange:
    """What has changed of a member's share: by topic, the partitions that it was given and those taken from it.

    A partition in both was taken and given back; another member may have worked on it in between.
    """

    taken: Mapping[str, Set[int]]
    lost: Mapping[str, Set[int]]

    def __bool__(self) -> bool:
        return bool(self.taken or self.lost)


class Share(Protocol):
    """Partitions that are had by one alone of all who share a log's topics as one group; within ``with``.

    Only who has them matters: they are read by ``Log.since`` as always.
    """

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None:
        """Give back what it has, for the others to take."""

    def poll(self, wait: float = 0.0, done: Mapping[str, Mapping[int, int]] | None = None) -> ShareChange:
        """What has changed since the last call; waits up to ``wait`` seconds for it. Raises LogError.

        To be called every few seconds and never while a lost partition could still be worked on: only once a call has
        told of a loss may another have the partition, unless this process was away for so long that it counted as dead.
        ``done`` is the last offset that is done of each partition, which a log may show to its operators.
        """

    def sure(self) -> bool:
        """Whether what it has is still its own, asked anew if the last answer is older than a second.

        False may pass, or mean that the next ``poll`` tells of a loss. Raises LogError.
        """


class Log(Protocol):
    """An event log. Its methods may be called from any thread and any process."""

    url: str

    def open_writer(self, run_id: str, *, copied: int | None = None) -> Writer:
        """Fence the run's writer before it, then return the new one: its epoch is one more, from 1.

        ``copied`` opens it for a run's events from another log, whose epochs go up to ``copied``: ``append`` takes
        them with the epochs they have, and the writer's own is greater than any of those.
        """

    def counted(self, run_id: str) -> Counted | None:
        """What is counted of the run apart from its records; None where nothing is."""

    def signal(self, record: Record) -> Position:
        """Append one record outside any transaction; durable when it returns."""

    def read(self, topic: str, key: str | None = None, after: Position | None = None) -> Iterator[Entry]:
        """Committed records in order of their positions, of one key or of all, up to the present end.

        ``after`` needs a key (its partition). Without one, partitions are read one after another.
        """

    def topic_id(self, topic: str) -> str:
        """What tells this topic from any other, one that is made anew under its name included."""

    def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        """For each partition that has had records: the first offset that is kept, and one behind the last."""

    def since(self, topic: str, offsets: Mapping[int, int]) -> Iterator[Entry]:
        """As ``read`` without a key, but each partition from behind its offset in ``offsets``, where it has one."""

    def follow(
        self, topic: str, key: str | None = None, after: Position | None = None, *, stop: threading.Event
    ) -> Iterator[Entry]:
        """As ``read``, but waits at the end for more until ``stop`` is set."""

    def share(self, topics: Sequence[str], group: str) -> Share:
        """Share the partitions of ``topics`` with all others who do so as ``group``; one process or many."""

    def checkpointed(self, run_id: str) -> Position | None:
        """A hint: where the run's newest CheckpointCommitted is. It may be missing or wrong: check what lies there."""

    def close(self) -> None:
        """Let go of files and connections. Writers and iterators of the log are not to be used after that."""
