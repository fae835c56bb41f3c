"""Writers on Kafka when transactions time out, rivals come, brokers die: nothing twice, nothing lost, told apart."""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from esper.cli.main import main
from esper.connections import kafka_settings, registry_settings
from esper.errors import Fenced, LogError, WriterLost
from esper.events.encoding.schemas import schema_of
from esper.events.runs import AlertRaised
from esper.events.topics import ASSETS, RUNS
from esper.log.kafka import open_kafka
from esper.log.kafka.address import Address
from esper.log.kafka.admin.open_transactions import HANGING, end_transaction, open_transactions
from esper.log.kafka.admin.topics import make_topics
from esper.log.kafka.log import KafkaLog
from esper.log.kafka.writer import KafkaWriter
from esper.log.partitions import partition_of
from esper.log.port import Record
from tests.support.services.brokers import Brokers

SCHEMA = schema_of(AlertRaised)


@pytest.fixture
def url(kafka_log_url: Callable[[], str]) -> str:
    return kafka_log_url()


@pytest.fixture
def log(url: str) -> Iterator[KafkaLog]:
    with closing(open_kafka(url)) as log:
        yield log


@pytest.fixture
def hasty(log: KafkaLog) -> Iterator[KafkaLog]:
    """The same log through a client whose transactions time out after a second."""
    again = KafkaLog(log.address, kafka_settings(), registry_settings(), transaction_timeout=1)
    with closing(again):
        yield again


def event(run_id: str, epoch: int, sequence: int, value: bytes = b"value") -> Record:
    return Record(RUNS, run_id, SCHEMA, value, (), epoch, sequence)


def neighbour(run_id: str) -> str:
    """Another run in the same partition."""
    return next(each for n in range(1000) if partition_of(each := f"other-{n}") == partition_of(run_id))


def sequences(log: KafkaLog, run_id: str = "run") -> list[int | None]:
    return [entry.record.sequence for entry in log.read(RUNS, run_id)]


def before_commit(writer: KafkaWriter, action: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do ``action`` when the writer's next transaction has been sent and not committed yet."""
    transactions = writer._transactions
    commit = transactions.commit

    def late(deadline: float) -> None:
        monkeypatch.setattr(transactions, "commit", commit)
        action()
        commit(deadline)

    monkeypatch.setattr(transactions, "commit", late)


def undone(log: KafkaLog) -> None:
    """Wait until the brokers have aborted the transaction that is open."""
    deadline = time.monotonic() + 20
    while (found := list(open_transactions(log))) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert found == []


def test_a_transaction_that_timed_out_loses_the_writer_and_another_goes_on(
    log: KafkaLog, hasty: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = hasty.open_writer("run")
    writer.append([event("run", 1, 1)])
    before_commit(writer, lambda: undone(log), monkeypatch)
    with pytest.raises(WriterLost, match=r"no other trainer took over.*resume the run"):
        writer.append([event("run", 1, 2), Record(ASSETS, "a", SCHEMA, b"")])
    with pytest.raises(WriterLost):
        writer.append([event("run", 1, 2)])
    again = hasty.open_writer("run")
    assert (again.epoch, again.sequence) == (2, 1)
    again.append([event("run", 2, 2)])
    assert sequences(log) == [1, 2]
    assert list(log.read(ASSETS)) == []


def test_a_rival_shows_itself_though_it_has_written_nothing_yet(
    log: KafkaLog, hasty: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = hasty.open_writer("run")
    before_commit(writer, lambda: log.open_writer("run"), monkeypatch)
    with pytest.raises(Fenced, match="epoch 2") as caught:
        writer.append([event("run", 1, 1)])
    assert caught.value.epoch == 2
    assert sequences(log) == []


def test_of_writers_opened_at_once_the_newest_alone_can_append(log: KafkaLog) -> None:
    writers: list[KafkaWriter] = []
    failures: list[Exception] = []

    def work() -> None:
        for _ in range(3):
            try:
                writers.append(log.open_writer("run"))
            except LogError as error:  # fenced, or by one that was fenced before it had an epoch: "try again"
                failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writers.append(log.open_writer("run"))
    epochs = [writer.epoch for writer in writers]
    assert len(set(epochs)) == len(epochs)
    assert len(writers) + len(failures) == 10
    assert all(isinstance(failure, Fenced) or "try again" in str(failure) for failure in failures)
    newest = max(writers, key=lambda writer: writer.epoch)
    for writer in writers:
        if writer is not newest:
            with pytest.raises(Fenced):
                writer.append([event("run", writer.epoch, 1)])
    newest.append([event("run", newest.epoch, 1)])
    assert [entry.record.epoch for entry in log.read(RUNS)] == [newest.epoch]


def test_what_the_brokers_refuse_is_undone_and_may_be_tried_again(log: KafkaLog) -> None:
    writer = log.open_writer("run")
    resource = ConfigResource(ResourceType.TOPIC, log.address.named(ASSETS))
    resource.add_incremental_config(
        ConfigEntry("max.message.bytes", "2000", incremental_operation=AlterConfigOpType.SET)
    )
    for future in log.cluster.admin.incremental_alter_configs([resource]).values():
        future.result()
    large = random.Random(0).randbytes(5000)  # brokers look at what is left after compression
    await_refusal(log, ASSETS, large)
    with pytest.raises(LogError, match=r"nothing was written: .*too large") as caught:
        writer.append([event("run", 1, 1), Record(ASSETS, "a", SCHEMA, large)])
    assert not isinstance(caught.value, WriterLost)
    assert sequences(log) == []
    writer.append([event("run", 1, 1), Record(ASSETS, "a", SCHEMA, b"smaller")])
    assert sequences(log) == [1]
    found = log.index.of("run")
    assert found is not None
    assert found.first == next(log.read(RUNS, "run")).position.offset


def await_refusal(log: KafkaLog, topic: str, value: bytes) -> None:
    """Wait until the brokers act on a topic's new configuration."""
    refusals: list[object] = []
    producer = Producer({"bootstrap.servers": log.address.servers})
    deadline = time.monotonic() + 10
    while not refusals and time.monotonic() < deadline:
        producer.produce(log.address.named(topic), value, on_delivery=lambda error, _: error and refusals.append(error))
        producer.flush(5)
    assert refusals


def test_an_interrupted_append_ends_the_writer(log: KafkaLog, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    writer = log.open_writer("run")
    before_commit(writer, interrupt, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        writer.append([event("run", 1, 1)])
    with pytest.raises(WriterLost, match="interrupted"):
        writer.append([event("run", 1, 1)])
    assert log.open_writer("run").sequence == 0
    assert sequences(log) == []


def test_a_closed_writer_says_so(log: KafkaLog) -> None:
    writer = log.open_writer("run")
    writer.close()
    with pytest.raises(LogError, match="closed"):
        writer.append([event("run", 1, 1)])
    log.close()
    with pytest.raises(LogError, match="closed"):
        log.open_writer("run")


def left_open(log: KafkaLog, run_id: str) -> Producer:
    """A trainer of ``run_id`` that stopped within a transaction."""
    producer = Producer(
        {
            "bootstrap.servers": log.address.servers,
            "transactional.id": log.address.transactional_id(run_id),
            "partitioner": "murmur2_random",
        }
    )
    producer.init_transactions(20)
    producer.begin_transaction()
    headers = [("ce_source", b"/esper/trainer"), ("esper_epoch", b"1"), ("esper_sequence", b"1")]
    producer.produce(log.address.named(RUNS), b"x" * 10, run_id.encode(), headers=headers)
    assert producer.flush(20) == 0
    return producer


def test_a_writer_waits_for_anothers_open_transaction_and_says_so_once(
    log: KafkaLog, caplog: pytest.LogCaptureFixture
) -> None:
    log.open_writer("run").append([event("run", 1, 1)])
    producer = left_open(log, neighbour("run"))
    later = threading.Timer(3, producer.abort_transaction)
    later.start()
    with caplog.at_level(logging.WARNING, "esper"):
        writer = log.open_writer("run")
    later.join()
    assert (writer.epoch, writer.sequence) == (2, 1)
    assert len([each for each in caplog.messages if "another writer's open transaction" in each]) == 1


def test_log_check_names_an_open_transaction_and_ends_it(
    url: str, log: KafkaLog, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["log", "check", "--log", url]) == 0
    assert "no transaction is open" in capsys.readouterr().out
    run = "läuft 1"
    producer = left_open(log, run)
    assert main(["log", "check", "--log", url, "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)
    assert (found["run_id"], found["writer"], found["hanging"]) == (run, "/esper/trainer", False)
    assert found["position"] == f"esper.runs/{partition_of(run)}:0"
    assert found["commands"] == [f"esper log check --log {url} --end 'läuft 1'"]
    assert main(["log", "check", "--log", url, "--end", run]) == 0
    assert "no transaction is open" in capsys.readouterr().out
    assert list(open_transactions(log)) == []
    del producer


def test_ending_a_live_trainers_transaction_loses_its_writer_but_not_its_run(
    log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = log.open_writer("run")
    before_commit(writer, lambda: end_transaction(log, "run"), monkeypatch)
    with pytest.raises(WriterLost):
        writer.append([event("run", 1, 1)])
    again = log.open_writer("run")
    again.append([event("run", again.epoch, again.sequence + 1)])
    assert sequences(log) == [1]
    assert HANGING > 30


@pytest.mark.slow
def test_a_broker_killed_while_a_run_is_written_loses_nothing_and_repeats_nothing(
    own_cluster: Callable[..., Brokers],
) -> None:
    cluster = own_cluster(1)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    with closing(open_kafka(f"kafka://{cluster.addresses}")) as log:
        make_topics(log)
        acknowledged: list[int] = []
        done = threading.Event()
        thread = threading.Thread(target=written, args=(log, acknowledged, done))
        thread.start()
        for _ in range(3):
            reached = len(acknowledged)
            while len(acknowledged) < reached + 20:
                assert thread.is_alive()
                time.sleep(0.01)
            time.sleep(moments.random() * 0.05)
            cluster.kill(1)
            cluster.restart(1)
        reached = len(acknowledged)
        while len(acknowledged) < reached + 20:
            assert thread.is_alive()
            time.sleep(0.01)
        done.set()
        thread.join(60)
        found = sequences(log)
        assert found == list(range(1, len(found) + 1))
        assert set(acknowledged) <= set(found)
        assert len(found) <= len(acknowledged) + 8


def written(log: KafkaLog, acknowledged: list[int], done: threading.Event) -> None:
    """Append one event after another until ``done``, as a trainer does: a lost writer is followed by another."""
    writer = log.open_writer("run")
    last = writer.sequence
    while not done.is_set():
        try:
            writer.append([event("run", writer.epoch, last + 1)])
            last += 1
            acknowledged.append(last)
        except WriterLost:
            writer = log.open_writer("run")
            last = writer.sequence
        except LogError:
            continue  # nothing was written


@pytest.mark.slow
def test_closing_a_writer_ends_an_append_that_waits_for_a_broker(own_cluster: Callable[..., Brokers]) -> None:
    cluster = own_cluster(1)
    address = Address.parse(f"kafka://{cluster.addresses}")
    with closing(KafkaLog(address, kafka_settings(), registry_settings())) as log:
        make_topics(log)
        writer = log.open_writer("run")
        writer.append([event("run", 1, 1)])
        cluster.kill(1)
        outcome: list[BaseException] = []

        def append() -> None:
            try:
                writer.append([event("run", 1, 2)])
            except LogError as error:
                outcome.append(error)

        thread = threading.Thread(target=append)
        thread.start()
        time.sleep(1)
        began = time.monotonic()
        writer.close()
        thread.join(30)
        assert time.monotonic() - began < 10
        assert isinstance(outcome[0], WriterLost)
