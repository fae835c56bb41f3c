"""What every log, embedded or on Kafka, checks before it writes or reads anything."""

from __future__ import annotations

from collections.abc import Sequence

from esper.errors import RecordTooLarge, SequenceGap, UsageError
from esper.events.topics import RUNS, SIGNALS
from esper.log.partitions import partition_of
from esper.log.port import MAX_BYTES, Position, Record


def check_sizes(records: Sequence[Record]) -> None:
    """Raise RecordTooLarge for a record beyond MAX_BYTES."""
    for record in records:
        size = len(record.key.encode()) + len(record.value)
        for name, of in record.headers:
            size += len(name) + len(of)
        if size > MAX_BYTES:
            raise RecordTooLarge(
                f"{record.topic}: a {record.schema.name} of {record.key} has {size:,} bytes, but no log takes more "
                f"than {MAX_BYTES:,}; nothing was written; make what it describes smaller"
            )


def following(records: Sequence[Record], run_id: str, epoch: int, last: int, copied: int | None = None) -> int:
    """The run's last sequence number once ``records`` are written; raises SequenceGap if they do not follow ``last``.

    Events have the writer's ``epoch``; those of a copy (see ``Log.open_writer``) any up to ``copied``.
    """
    for record in records:
        if record.topic != RUNS:
            continue
        right = record.epoch == epoch if copied is None else 0 < (record.epoch or 0) <= copied
        if record.sequence != last + 1 or record.key != run_id or not right:
            raise SequenceGap(
                f"run {run_id}: event {epoch if copied is None else f'1 to {copied}'}/{last + 1} comes next, but was "
                f"given {record.epoch}/{record.sequence} of run {record.key}; number a run's events (epoch/sequence) "
                "without gaps"
            )
        last += 1
    return last


def check_signal(record: Record) -> None:
    """Raise UsageError for a record that only a run's writer may write."""
    if record.topic == RUNS:
        raise UsageError(f"{RUNS} is written by a run's trainer alone; use open_writer, or send to {SIGNALS}")
    check_sizes([record])


def start_offset(topic: str, key: str | None, after: Position | None) -> int:
    """The offset that reading starts behind; raises UsageError for a position that is not in the key's partition."""
    if after is None:
        return -1
    if key is None:
        raise UsageError(f"after {after}: name a key too, since each partition has its own positions")
    if (after.topic, after.partition) != (topic, partition_of(key)):
        raise UsageError(f"{after} is not in the partition of {key}: {topic}/{partition_of(key)}")
    return after.offset
