"""``esper.run-index``: for each run the epoch that its writer claimed, and hints where its events begin."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass, field
from io import BytesIO

from fastavro import schemaless_reader, schemaless_writer

from esper.errors import DecodeError
from esper.events.encoding.schemas import Schema, schema_named
from esper.events.topics import INDEX
from esper.log.kafka.frames import LENGTH, schema_id
from esper.log.kafka.reader import Message, Reader
from esper.log.kafka.registry import Registry
from esper.log.partitions import partition_of


@dataclass(frozen=True, slots=True)
class RunIndex:
    """What the newest index record of a run says; see ``schemas/esper.RunIndex.avsc``."""

    epoch: int
    writer: str
    first: int | None = None
    checkpoint: int | None = None


@dataclass(slots=True)
class _Part:
    """A partition as far as it has been read."""

    end: int = 0
    runs: dict[str, RunIndex] = field(default_factory=dict)


class Index:
    """The index of all runs, read as far as asked. Threads may share it."""

    def __init__(self, reader: Reader, registry: Registry) -> None:
        self._reader, self._registry = reader, registry
        self._parts: dict[int, _Part] = {}
        self._lock = threading.Lock()

    def of(self, run_id: str, *, settled: bool = False) -> RunIndex | None:
        """The run's newest record, None if it has none that can be read.

        ``settled`` waits, bounded, until every transaction that is open now is ended.
        """
        partition = partition_of(run_id)
        with self._lock:
            if settled:
                end = self._reader.settled_end(INDEX, partition)
            else:
                end = self._reader.ends(INDEX, [partition])[partition]
            part = self._parts.setdefault(partition, _Part())
            if end < part.end:  # the topic was made anew
                part = self._parts[partition] = _Part()
            for message in self._reader.messages(INDEX, partition, part.end, end):
                self._take(part, message)
            part.end = max(part.end, end)
            return part.runs.get(run_id)

    def _take(self, part: _Part, message: Message) -> None:
        """Remember a record; one that is not ours is no hint."""
        key, value = message.key(), message.value()
        if key is None:
            return
        try:
            run_id = key.decode()
            part.runs[run_id] = self._decoded(value)
        except (DecodeError, ValueError, LookupError, TypeError, EOFError):
            return

    def _decoded(self, value: bytes | None) -> RunIndex:
        number = schema_id(value)
        if number is None or value is None:
            raise DecodeError("no frame")
        written = self._registry.schema(number)
        record = schemaless_reader(BytesIO(value[LENGTH:]), written.parsed, index_schema().parsed)
        return RunIndex(**record)  # type: ignore[arg-type]


def index_schema() -> Schema:
    """Today's schema of index records."""
    return schema_named("esper.RunIndex")


def index_bytes(entry: RunIndex) -> bytes:
    """The Avro body of an index record."""
    stream = BytesIO()
    schemaless_writer(stream, index_schema().parsed, asdict(entry))
    return stream.getvalue()
