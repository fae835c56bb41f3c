"""A forger who may write to a log as any client can, and who has read it: records that look like a run's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from esper.events import runs
from esper.kasmina.seed.stages import Stage
from esper.log.chain import chained, digest
from esper.log.exclusions import run_events
from esper.log.kafka.frames import head
from esper.log.kafka.log import KafkaLog
from esper.log.kafka.reader import EPOCH, SEQUENCE
from esper.log.port import Entry, Log, Position, Record
from esper.log.records import run_record
from esper.log.sqlite.log import SqliteLog, insert
from tests.support.runs.histories import ENVIRONMENT, History

EPOCHS: dict[str, Callable[[int], int]] = {
    "this epoch": lambda present: present,
    "the next": lambda present: present + 1,
    "2^40": lambda present: 2**40,
    "2^63 - 1": lambda present: 2**63 - 1,
}
KINDS: dict[str, Any] = {
    "RunStarted": History().events[0].content,
    "RunResumed": runs.RunResumed(checkpoint=0, inexact=False, environment=ENVIRONMENT, notes=("forged",)),
    "RunCompleted": runs.RunCompleted(step=5, final_loss=0.0, test={}, parameters_digest="00", seeds={}),
    "RunFailed": runs.RunFailed(step=5, cause="forged"),
    "SeedTransitioned": runs.SeedTransitioned(
        seed="0#1",
        site="0",
        blueprint="mlp@000000000000",
        kernel="00" * 32,
        from_stage=Stage.DORMANT.value,
        to_stage=Stage.GERMINATED.value,
        step=5,
        cause="decision",
        gate=None,
        evidence=None,
    ),
    "BoundaryReached": runs.BoundaryReached(
        step=5,
        epoch=0,
        batch=5,
        loss=0.0,
        learning_rate=1.0,
        digest="00",
        tensors=b"",
        data="",
        first_data="",
        sites=None,
        health=None,
        trials=(),
    ),
    "CheckpointCommitted": runs.CheckpointCommitted(step=5, manifest="00" * 32, sequence=1, reason="due", size=1),
}


def forged(log: Log, run_id: str, kind: str, epoch: str, behind: Entry | None = None) -> Record:
    """An event with a right link behind ``behind``, by default behind the run's last one."""
    found = list(run_events(log, run_id))
    entries, started = [entry for entry, _ in found], found[0][1].content
    before, content = behind or entries[-1], KINDS[kind]
    if isinstance(content, runs.RunResumed) and isinstance(started, runs.RunStarted):
        content = replace(content, environment=started.environment)
    record = run_record(
        run_id,
        content,
        epoch=EPOCHS[epoch](entries[-1].record.epoch or 0),
        sequence=(before.record.sequence or 0) + 1,
        writer="trainer/elsewhere/1",
        time=datetime.now(UTC),
    )
    return chained([record], digest(before.record))[0][0]


def is_foreign(kind: str, epoch: str) -> bool:
    """Whether a reader can tell by the record alone that it is none of a run's events."""
    return kind == "RunStarted" or epoch.startswith("2^") or (epoch == "the next" and kind != "RunResumed")


def plant(log: Log, record: Record) -> Position:
    """Write it past every check, as a client of the log's own kind can."""
    if isinstance(log, SqliteLog):
        with log.database.transaction() as connection:
            return insert(connection, [record])[0]
    assert isinstance(log, KafkaLog)
    real, places = log.writable(record.topic), list[Position]()
    headers: list[Any] = list(record.headers)
    if record.sequence is not None:
        headers += [(EPOCH, str(record.epoch).encode()), (SEQUENCE, str(record.sequence).encode())]
    producer = log.cluster.producer(linger_ms=0)
    producer.produce(
        real,
        head(log.registry.id_of(real, record.schema)) + record.value if record.schema.name else record.value,
        record.key.encode(),
        headers=headers,
        on_delivery=lambda error, sent: places.append(Position(record.topic, sent.partition(), sent.offset())),
    )
    assert producer.flush(30) == 0
    return places[0]
