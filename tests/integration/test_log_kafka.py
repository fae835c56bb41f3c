"""What only the log on Kafka has: the wire format, the index, limits, foreign records, topics, wrong settings."""

from __future__ import annotations

import gc
import json
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from confluent_kafka import Consumer, Producer

from esper.errors import LogError, RecordTooLarge, UsageError
from esper.events.encoding.schemas import UNKNOWN, schema_from_json, schema_named, schema_of
from esper.events.runs import AlertRaised, BoundaryReached, CheckpointCommitted
from esper.events.topics import ASSETS, INDEX, PARTITIONS, RUNS, SIGNALS
from esper.log.kafka import open_kafka
from esper.log.kafka.address import Address
from esper.log.kafka.frames import head
from esper.log.kafka.index import RunIndex, index_bytes
from esper.log.kafka.log import KafkaLog
from esper.log.partitions import partition_of
from esper.log.port import MAX_BYTES, Record
from esper.log.records import run_record
from tests.support.logs.foreign import inject

SCHEMA = schema_of(AlertRaised)


@pytest.fixture
def url(kafka_log_url: Callable[[], str]) -> str:
    return kafka_log_url()


@pytest.fixture
def log(url: str) -> Iterator[KafkaLog]:
    with closing(open_kafka(url)) as log:
        yield log


def event(run_id: str, epoch: int, sequence: int, value: bytes = b"value") -> Record:
    return Record(RUNS, run_id, SCHEMA, value, (("ce_id", b"%d" % sequence),), epoch, sequence)


def neighbours(run_id: str, count: int) -> list[str]:
    """Other runs in the partition of ``run_id``."""
    found = (f"{run_id}-{number}" for number in range(100 * count))
    return [each for each in found if partition_of(each) == partition_of(run_id)][:count]


def raw(log: KafkaLog, topic: str) -> list[tuple[bytes, bytes, list[tuple[str, bytes]], int]]:
    """Key, value, headers and partition of what lies in a topic, as a client that is not ours reads it."""
    consumer = Consumer({"bootstrap.servers": log.address.servers, "group.id": "raw", "auto.offset.reset": "earliest"})
    consumer.subscribe([log.address.named(topic)])
    ends = sum(log.reader.ends(topic, range(PARTITIONS)).values())
    found, deadline = [], time.monotonic() + 20
    while len(found) < ends - 1 and time.monotonic() < deadline:
        message = consumer.poll(0.2)
        if message is not None and message.error() is None:
            found.append((message.key(), message.value(), message.headers() or [], message.partition()))
        elif found:
            break
    consumer.close()
    return found


# The wire


def test_a_record_is_framed_as_confluent_does_and_its_epoch_and_sequence_are_its_last_two_headers(
    log: KafkaLog,
) -> None:
    content = AlertRaised(step=1, kind="test", detail="", value=None)
    record = run_record("run", content, epoch=1, sequence=1, writer="t", time=datetime(2026, 11, 22, tzinfo=UTC))
    log.open_writer("run").append([record])
    [(key, value, headers, partition)] = raw(log, RUNS)
    assert (key, value[0], value[5:]) == (b"run", 0, record.value)
    stored = log.registry.subjects.text(int.from_bytes(value[1:5], "big"))
    assert stored is not None
    assert schema_from_json(stored) == SCHEMA
    assert [name for name, _ in headers] == [
        "ce_specversion",
        "ce_type",
        "ce_source",
        "ce_subject",
        "correlation_id",
        "ce_id",
        "ce_time",
        "esper_epoch",
        "esper_sequence",
    ]
    assert headers[-2:] == [("esper_epoch", b"1"), ("esper_sequence", b"1")]
    assert partition == partition_of("run")


def test_a_schema_is_registered_under_its_topics_real_name_and_later_versions_have_to_read_it(log: KafkaLog) -> None:
    log.open_writer("run").append([event("run", 1, 1)])
    subject = f"{log.address.named(RUNS)}-esper.runs.AlertRaised"
    assert log.registry.subjects.looked_up(subject, SCHEMA)
    assert log.registry.subjects.level(subject) == "BACKWARD_TRANSITIVE"
    worse = json.loads(SCHEMA.json)
    worse["fields"].append({"name": "new", "type": "long"})
    with pytest.raises(LogError, match="give new fields a default"):
        log.registry.id_of(log.address.named(RUNS), schema_from_json(json.dumps(worse)))


def test_keys_lie_where_java_would_put_them(log: KafkaLog) -> None:
    keys = [f"run-{number}" for number in range(60)] + ["läuft-Ω-走", "", "nul\0inside"]
    log.open_writer("run").append([Record(ASSETS, key, SCHEMA, b"") for key in keys])
    found = {entry.record.key: entry.position.partition for entry in log.read(ASSETS)}
    assert found == {key: partition_of(key) for key in keys}


def test_headers_named_like_the_adapters_own_stay_the_records(log: KafkaLog) -> None:
    headers = (("esper_epoch", b"x"), ("esper_sequence", b"y"))
    record = replace(event("run", 1, 1), headers=headers)
    log.open_writer("run").append([record, Record(ASSETS, "a", SCHEMA, b"", headers)])
    assert [entry.record for entry in log.read(RUNS, "run")] == [record]
    assert next(log.read(ASSETS, "a")).record.headers == headers


# What others wrote


def test_a_foreign_record_comes_with_its_bytes_and_what_is_wrong_with_it(url: str, log: KafkaLog) -> None:
    log.open_writer("run").append([event("run", 1, 1)])
    inject(url, RUNS, "run", b"no frame")
    inject(url, RUNS, "run", head(987_654) + b"body", (("esper_epoch", b"?"), ("esper_sequence", b"!")))
    inject(url, RUNS, "run", b"")
    entries = list(log.read(RUNS, "run"))
    assert [entry.error for entry in entries] == [
        None,
        "its value has no schema id in front (a zero byte and four more)",
        "the registry has no schema 987654",
        "its value has no schema id in front (a zero byte and four more)",
    ]
    assert [entry.record.value for entry in entries[1:]] == [b"no frame", head(987_654) + b"body", b""]
    assert {entry.record.schema for entry in entries[1:]} == {UNKNOWN}
    assert [name for name, _ in entries[2].record.headers] == ["esper_epoch", "esper_sequence"]
    assert log.open_writer("run").sequence == 1


def test_a_record_without_a_readable_key_is_no_events(log: KafkaLog) -> None:
    producer = Producer({"bootstrap.servers": log.address.servers})
    for key in (None, b"\xff\xfe"):
        producer.produce(log.address.named(SIGNALS), head(1), key)
    assert producer.flush(10) == 0
    assert {(entry.record.key, entry.error) for entry in log.read(SIGNALS)} == {
        ("", "its key is no text"),
        (r"\xff\xfe", "its key is no text"),
    }


def test_the_brokers_clock_counts_and_not_the_clients(log: KafkaLog) -> None:
    log.writable(SIGNALS)
    producer = Producer({"bootstrap.servers": log.address.servers})
    for wrong in (timedelta(days=400), timedelta(days=-400)):
        wrong_time = round((datetime.now(UTC) + wrong).timestamp() * 1000)
        producer.produce(log.address.named(SIGNALS), head(1), b"run", timestamp=wrong_time)
    assert producer.flush(10) == 0
    times = [entry.timestamp for entry in log.read(SIGNALS, "run")]
    assert len(times) == 2
    assert all(abs(each - datetime.now(UTC)) < timedelta(minutes=1) for each in times)


# Limits


def test_a_record_of_the_largest_size_passes_and_one_more_byte_is_refused_before_anything_is_written(
    log: KafkaLog,
) -> None:
    writer = log.open_writer("run")
    overhead = len("run") + len("ce_id") + 1
    largest = event("run", 1, 1, os.urandom(MAX_BYTES - overhead))
    with pytest.raises(RecordTooLarge, match=r"esper\.runs: a esper\.runs\.AlertRaised of run has 8,388,609 bytes"):
        writer.append([Record(ASSETS, "a", SCHEMA, b""), replace(largest, value=largest.value + b"x")])
    with pytest.raises(RecordTooLarge):
        log.signal(Record(SIGNALS, "run", SCHEMA, bytes(MAX_BYTES)))
    writer.append([largest])
    assert [entry.record for entry in log.read(RUNS, "run")] == [largest]
    assert list(log.read(ASSETS)) == list(log.read(SIGNALS)) == []


# The index


def index(log: KafkaLog, run_id: str, entry: RunIndex) -> None:
    framed = head(log.registry.id_of(log.address.named(INDEX), schema_named("esper.RunIndex"))) + index_bytes(entry)
    inject(log.url, INDEX, run_id, framed)


def test_the_index_has_the_runs_first_event_and_its_newest_checkpoint(log: KafkaLog) -> None:
    other, run = neighbours("run", 1)[0], "run"
    log.open_writer(other).append([event(other, 1, number) for number in range(1, 6)])
    log.open_writer(run).append([event(run, 1, 1), event(run, 1, 2)])
    first = next(iter(log.read(RUNS, run))).position
    found = log.index.of(run)
    assert found is not None
    assert (found.epoch, found.first, found.checkpoint) == (1, first.offset, None)
    writer = log.open_writer(run)
    checkpoint = replace(event(run, 2, 3), schema=schema_of(CheckpointCommitted))
    last = writer.append([checkpoint, event(run, 2, 4)])
    *_, position, end = (entry.position for entry in log.read(RUNS, run))
    found = log.index.of(run)
    assert found is not None
    assert (found.epoch, found.first, found.checkpoint) == (2, first.offset, position.offset)
    assert last == end


def test_a_read_begins_at_the_runs_first_event_and_a_writer_at_its_last_checkpoint(
    log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = neighbours("run", 1)[0]
    log.open_writer(other).append([event(other, 1, number) for number in range(1, 2001)])
    writer = log.open_writer("run")
    first = writer.append([event("run", 1, 1)])
    checkpoint = writer.append([replace(event("run", 1, 2), schema=schema_of(CheckpointCommitted))])
    writer.append([event("run", 1, 3)])
    assert first is not None
    assert checkpoint is not None
    starts = []
    whole = log.reader.messages

    def watched(topic: str, partition: int, start: int, end: int) -> Iterator[object]:
        starts.append((topic, start))
        return whole(topic, partition, start, end)

    monkeypatch.setattr(log.reader, "messages", watched)
    assert [entry.record.sequence for entry in log.read(RUNS, "run")] == [1, 2, 3]
    assert starts[-1] == (RUNS, first.offset)
    assert log.open_writer("run").sequence == 3
    assert starts[-1] == (RUNS, checkpoint.offset)


@pytest.mark.parametrize(
    "wrong",
    [
        RunIndex(1, "x", first=0),  # another run's
        RunIndex(1, "x", first=7, checkpoint=7),  # not the run's first
        RunIndex(1, "x", first=10**9, checkpoint=10**9),
        RunIndex(1, "x"),
    ],
)
def test_an_index_that_is_wrong_or_missing_changes_nothing(log: KafkaLog, wrong: RunIndex) -> None:
    other = neighbours("run", 1)[0]
    log.open_writer(other).append([event(other, 1, number) for number in range(1, 6)])
    log.open_writer("run").append([event("run", 1, number) for number in range(1, 5)])
    assert [entry.position.offset for entry in log.read(RUNS, "run")][1] == 7
    index(log, "run", wrong)
    with closing(open_kafka(log.url)) as fresh:
        assert [entry.record.sequence for entry in fresh.read(RUNS, "run")] == [1, 2, 3, 4]
        stop = threading.Event()
        assert next(fresh.follow(RUNS, "run", stop=stop)).record.sequence == 1
        writer = fresh.open_writer("run")
        assert (writer.epoch, writer.sequence) == (2, 4)
        found = fresh.index.of("run")
        assert found is not None
        assert found.first == 6


def test_garbage_in_the_index_is_no_hint(log: KafkaLog) -> None:
    log.open_writer("run").append([event("run", 1, 1)])
    for garbage in (b"", b"garbage", head(987_654) + b"x"):
        inject(log.url, INDEX, "run", garbage)
    with closing(open_kafka(log.url)) as fresh:
        assert len(list(fresh.read(RUNS, "run"))) == 1
        assert (fresh.open_writer("run").epoch, fresh.open_writer("run").epoch) == (2, 3)


def test_an_epoch_is_never_given_twice_though_the_index_was_lost(log: KafkaLog) -> None:
    for _ in range(3):
        writer = log.open_writer("run")
    writer.append([event("run", 3, 1)])
    index(log, "run", RunIndex(1, "x"))
    with closing(open_kafka(log.url)) as fresh:
        assert (fresh.open_writer("run").epoch, fresh.open_writer("run").epoch) == (4, 5)


# Latency, processes


def test_who_follows_sees_an_append_at_once(log: KafkaLog) -> None:
    writer, stop = log.open_writer("run"), threading.Event()
    following = log.follow(RUNS, "run", stop=stop)
    writer.append([event("run", 1, 1)])
    next(following)
    delays = []
    for number in range(2, 22):
        writer.append([event("run", 1, number)])
        committed = time.monotonic()
        next(following)
        delays.append(time.monotonic() - committed)
    stop.set()
    assert statistics.median(delays) < 0.05


def test_a_forked_child_leaves_its_parents_connections_alone(log: KafkaLog) -> None:
    writer = log.open_writer("run")
    writer.append([event("run", 1, 1)])
    assert len(list(log.read(RUNS, "run"))) == 1
    gc.collect()  # of what other tests left: a child that frees an embedded ClickHouse waits for threads it lacks
    cycle = [open_kafka(log.url).open_writer("another")]
    cycle.append(cycle)  # type: ignore[arg-type]
    del cycle
    child = os.fork()
    if child == 0:
        gc.collect()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    writer.append([event("run", 1, 2)])
    assert len(list(log.read(RUNS, "run"))) == 2


def test_prefixes_keep_logs_on_one_cluster_apart(kafka_log_url: Callable[[], str]) -> None:
    with closing(open_kafka(kafka_log_url())) as one, closing(open_kafka(kafka_log_url())) as two:
        first = one.open_writer("run")
        assert two.open_writer("run").epoch == 1
        position = first.append([event("run", 1, 1)])
        assert position is not None
        assert position.topic == RUNS
        assert list(two.read(RUNS)) == []
        assert one.log_id != two.log_id


# What is not there


def test_a_broker_that_does_not_answer_is_named_within_ten_seconds_and_nothing_else_is_said(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ESPER_REGISTRY", "http://127.0.0.1:1")
    began = time.monotonic()
    with (
        closing(open_kafka("kafka://127.0.0.1:1")) as log,
        pytest.raises(LogError, match=r"127\.0\.0\.1:1: no Kafka broker answers there .*esper dev up"),
    ):
        log.open_writer("run")
    assert time.monotonic() - began < 10
    told = capfd.readouterr()
    assert (told.out, told.err) == ("", "")


def test_a_registry_that_is_down_is_no_fault_of_the_records(
    url: str, log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.open_writer("run").append([event("run", 1, 1)])
    monkeypatch.setenv("ESPER_REGISTRY", "http://127.0.0.1:1")
    with closing(open_kafka(url)) as cut:
        for use in (lambda: list(cut.read(RUNS, "run")), lambda: cut.open_writer("run")):
            with pytest.raises(LogError, match=r"http://127\.0\.0\.1:1: it does not answer .*ESPER_REGISTRY"):
                use()
    monkeypatch.delenv("ESPER_REGISTRY")
    with pytest.raises(UsageError, match="set ESPER_REGISTRY"):
        open_kafka(url)


def test_a_registry_at_a_wrong_path_does_not_make_events_unknown(
    url: str, log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.open_writer("run").append([Record(RUNS, "run", schema_of(BoundaryReached), b"", (), 1, 1)])
    monkeypatch.setenv("ESPER_REGISTRY", os.environ["ESPER_REGISTRY"].replace("/apis/ccompat/v7", "/nowhere"))
    with closing(open_kafka(url)) as wrong, pytest.raises(LogError, match="answered 404"):
        list(wrong.read(RUNS, "run"))


@pytest.mark.parametrize("url", ["kafka://", "kafka://host", "kafka://host:1/a/b", "kafka://host:1/a b", "kafka://h:x"])
def test_a_url_that_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="kafka://HOST:PORT"):
        Address.parse(url)
