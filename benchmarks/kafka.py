"""The log on Kafka: appending and reading, on a broker of this machine.

What it takes to make an event's record (id, envelope, headers, Avro body) from its content is part of the events per
second, and so is waiting for the commit. Bare decoding is fastavro's, of the same values, in the same process.

Bare producing is confluent_kafka's alone, by a producer with the same options: the same topic, keys, values and headers
in the same transactions, in turns with ours on the same broker. It gets its bytes ready made, and so does the append
that it is compared with; the second ratio is with the making of the records.
"""

from __future__ import annotations

import queue
import statistics
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from io import BytesIO

from confluent_kafka import Producer
from fastavro import schemaless_reader

from benchmarks.brokers import kafka_log
from benchmarks.dormant import no_collection
from benchmarks.log import RUN, boundary, start
from benchmarks.report import Figure, at_least
from esper.events import RunContent
from esper.events.topics import RUNS
from esper.log.exclusions import run_events
from esper.log.kafka import open_kafka
from esper.log.kafka.log import KafkaLog
from esper.log.kafka.transactions import Message
from esper.log.kafka.writer import KafkaWriter
from esper.log.port import Log, Record, Writer
from esper.log.records import run_record
from esper.settings import LogSettings
from esper.tamiyo.run.fold import fold
from esper.tamiyo.run.state import RunState

TITLE = "the log on Kafka, one writer, one broker on this machine"


def figures() -> list[Figure]:
    with kafka_log() as url, closing(open_kafka(url)) as log:
        return [
            *two_threads(log, 1000, 40_000, 200),
            *one_thread(log, 1000, 200),
            *two_threads(log, 100, 5_000, 500),
            *one_thread(log, 100, 500),
            *read_decode_fold(log),
        ]


def two_threads(log: Log, batch: int, target: int, rounds: int, warm_up: int = 100) -> list[Figure]:
    """Transactions of ``batch`` events until all are acknowledged, by a broker that is warm: as in a trainer, one
    thread makes the records and another appends them."""
    writer = log.open_writer(f"{RUN}-two-{batch}")
    made: queue.Queue[list[Record] | None] = queue.Queue(LogSettings().buffer)
    contents = [boundary(place) for place in range(batch)]
    ends: list[float] = []

    def appending() -> None:
        while (records := made.get()) is not None:
            writer.append(records)
            ends.append(time.perf_counter())

    thread = threading.Thread(target=appending)
    with no_collection():
        thread.start()
        for number in range(warm_up + rounds):
            made.put(_records(writer, contents, number * batch))
        made.put(None)
        thread.join()
    writer.close()
    took = ends[-1] - ends[warm_up - 1]
    return [at_least(f"append, {batch} a transaction, events/s", batch * rounds / took, target)]


def one_thread(log: KafkaLog, batch: int, rounds: int, warm_up: int = 100) -> list[Figure]:
    """The same by one thread, which makes a transaction's records, appends them, and only then makes the next's; in
    turns with bare producing. Ratios are medians over the rounds."""
    writer = log.open_writer(f"{RUN}-one-{batch}")
    assert isinstance(writer, KafkaWriter)
    producer = log.cluster.producer(transactional_id=log.address.named(f"bare-{batch}"), linger_ms=5)
    producer.init_transactions()
    making: list[float] = []
    committing: list[float] = []
    bare: list[float] = []
    contents = [boundary(place) for place in range(batch)]
    with no_collection():
        for number in range(rounds + warm_up):
            begin = time.perf_counter()
            records = _records(writer, contents, number * batch)
            making.append(time.perf_counter() - begin)
            append = partial(writer.append, records)
            produce = partial(_produce, producer, list(writer._messages(records)))
            if number % 2:
                bare.append(_seconds(produce))
            committing.append(_seconds(append))
            if number % 2 == 0:
                bare.append(_seconds(produce))
    making, committing, bare = making[warm_up:], committing[warm_up:], bare[warm_up:]
    writer.close()
    whole = sum(making) + sum(committing)
    alone = [b / c for b, c in zip(bare, committing, strict=True)]
    with_making = [b / (m + c) for b, m, c in zip(bare, making, committing, strict=True)]
    slowest = sorted(committing)
    return [
        Figure("  by one thread alone, events/s", batch * rounds / whole),
        Figure("  bare producing of the same bytes, events/s", batch / statistics.median(bare)),
        Figure("  append, of bare producing", statistics.median(alone)),
        Figure("  append with the making of its records, of the same", statistics.median(with_making)),
        Figure(f"  making a record, {batch} at a time, microseconds", statistics.median(making) / batch * 1e6),
        Figure(f"  commit of {batch}, milliseconds, p50", slowest[len(slowest) // 2] * 1000),
        Figure(f"  commit of {batch}, milliseconds, p99", slowest[len(slowest) * 99 // 100] * 1000),
    ]


def read_decode_fold(log: Log, events: int = 20_000, rounds: int = 7) -> list[Figure]:
    """Reading a run, checking its order, decoding and folding it, against decoding the same values alone."""
    ours: list[float] = []
    bare: list[float] = []
    writer = log.open_writer(RUN)
    writer.append(_records(writer, [start()], 0))
    for first in range(0, events, 1000):
        writer.append(_records(writer, map(boundary, range(first, first + 1000)), first + 1))
    entries = list(log.read(RUNS, RUN))
    values, parsed = [entry.record.value for entry in entries[1:]], entries[-1].record.schema.parsed
    del entries
    for _ in range(rounds):
        ours.append(_seconds(lambda: fold(RunState(RUN), (event for _, event in run_events(log, RUN)))))
        bare.append(_seconds(lambda: [schemaless_reader(BytesIO(value), parsed, None) for value in values]))
    ratios = [each / other for each, other in zip(bare, ours, strict=True)]
    return [
        Figure("bare fastavro decoding, events/s", events / statistics.median(bare)),
        Figure("read, order, decode and fold, events/s", events / statistics.median(ours)),
        at_least("read, order, decode and fold, of bare decoding", statistics.median(ratios), 0.5),
    ]


def _produce(producer: Producer, messages: list[Message]) -> None:
    producer.begin_transaction()
    for topic, key, value, headers, _ in messages:
        producer.produce(topic, value, key, headers=headers)
    producer.commit_transaction()


def _records(writer: Writer, contents: Iterable[RunContent], after: int) -> list[Record]:
    return [
        run_record(
            writer.run_id, content, epoch=writer.epoch, sequence=number, writer="trainer", time=datetime.now(UTC)
        )
        for number, content in enumerate(contents, after + 1)
    ]


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
