"""What every log adapter promises. Only methods of the port are used, so a new adapter passes this file as it is."""

from __future__ import annotations

import threading
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from esper.errors import Fenced, SequenceConflict, SequenceGap, UsageError
from esper.events.encoding.schemas import name_of, schema_from_json, schema_of
from esper.events.runs import AlertRaised, BoundaryReached, RunResumed
from esper.events.signals import CommandIssued
from esper.events.topics import ASSETS, RUNS, SIGNALS
from esper.log import open_log
from esper.log.chain import chained, first_link
from esper.log.ordering import in_order, once
from esper.log.partitions import partition_of
from esper.log.port import Entry, Log, Position, Record
from esper.log.records import run_record, signal_record
from tests.support.logs.log_child import records as child_records
from tests.support.runs.histories import ENVIRONMENT, History
from tests.support.services.adapters import child

SCHEMA = schema_of(BoundaryReached)


def event(run_id: str, epoch: int, sequence: int, value: bytes = b"value") -> Record:
    return Record(RUNS, run_id, SCHEMA, value, (("ce_id", b"%d" % sequence),), epoch, sequence)


def asset(key: str, value: bytes = b"asset") -> Record:
    return Record(ASSETS, key, SCHEMA, value)


def command(run_id: str, nonce: str, reason: str = "") -> Record:
    content = CommandIssued(command="pause", seed=None, issuer="a test", nonce=nonce, reason=reason)
    return signal_record(run_id, content, writer="test", time=datetime(2026, 11, 22, tzinfo=UTC))


def read(log: Log, topic: str, key: str | None = None, after: Position | None = None) -> list[Record]:
    return [entry.record for entry in log.read(topic, key, after)]


def test_what_is_appended_is_read_back_with_key_headers_schema_position_and_time(log: Log) -> None:
    headers = (("ce_id", b"1"), ("twice", b""), ("twice", b"\0\xff\n"), ("näme", "wört".encode()))
    written = Record(RUNS, "run", SCHEMA, b"\0body\0", headers, 1, 1)
    before = datetime.now(UTC)
    position = log.open_writer("run").append([written])
    [entry] = log.read(RUNS, "run")
    assert entry == Entry(position, entry.timestamp, written)
    assert (entry.position.topic, entry.position.partition) == (RUNS, partition_of("run"))
    assert entry.timestamp.utcoffset() == timedelta(0)
    assert before - timedelta(seconds=1) < entry.timestamp < datetime.now(UTC) + timedelta(seconds=1)
    assert Position.parse(str(position)) == position


def test_a_schema_that_this_version_does_not_have_comes_back_with_its_record(log: Log) -> None:
    foreign = schema_from_json('{"type": "record", "name": "esper.assets.Later", "fields": []}')
    log.open_writer("run").append([Record(ASSETS, "a", foreign, b""), asset("a")])
    assert [record.schema for record in read(log, ASSETS)] == [foreign, SCHEMA]


def test_an_empty_log_and_an_unknown_key_read_as_nothing(log: Log) -> None:
    assert read(log, RUNS) == read(log, "no.such.topic") == []
    log.open_writer("run").append([event("run", 1, 1)])
    assert read(log, RUNS, "another") == read(log, SIGNALS) == []


@pytest.mark.parametrize("key", ["läuft-Ω-走", "with space/and?more", "nul\0inside", "x" * 500])
def test_a_key_may_be_any_text(log: Log, key: str) -> None:
    log.open_writer(key).append([event(key, 1, 1)])
    log.open_writer(key + "2").append([event(key + "2", 1, 1)])
    assert read(log, RUNS, key) == [event(key, 1, 1)]


def test_a_value_may_have_a_megabyte(log: Log) -> None:
    values = [bytes([number]) * 1_000_000 for number in range(6)]
    writer = log.open_writer("run")
    for number, value in enumerate(values, 1):
        writer.append([event("run", 1, number, value)])
    assert [record.value for record in read(log, RUNS, "run")] == values


def test_records_of_one_key_keep_their_order_and_their_positions_grow(log: Log) -> None:
    writers = {run: log.open_writer(run) for run in ("a", "b", "c")}
    for number in range(1, 40):
        for run, writer in writers.items():
            writer.append([event(run, 1, number)])
    for run in writers:
        entries = list(log.read(RUNS, run))
        assert [entry.record.sequence for entry in entries] == list(range(1, 40))
        assert [entry.position for entry in entries] == sorted({entry.position for entry in entries})


def test_without_a_key_all_partitions_are_read_one_after_another(log: Log) -> None:
    runs = [f"run-{number}" for number in range(30)]
    for run in runs:
        log.open_writer(run).append([event(run, 1, 1), event(run, 1, 2)])
    positions = [entry.position for entry in log.read(RUNS)]
    assert positions == sorted(positions)
    assert len({position.partition for position in positions}) > 6
    assert sorted({record.key for record in read(log, RUNS)}) == sorted(runs)
    assert len(positions) == 60


def test_reading_after_a_position_goes_on_behind_it(log: Log) -> None:
    written = [event("run", 1, number) for number in range(1, 2501)]
    last = log.open_writer("run").append(written)
    positions = [entry.position for entry in log.read(RUNS, "run")]
    assert len(set(positions)) == 2500
    assert last == positions[-1]
    for place in (0, 999, 1000, 2498):
        assert read(log, RUNS, "run", positions[place]) == written[place + 1 :]
    assert read(log, RUNS, "run", positions[-1]) == []


def test_a_position_without_its_key_is_refused(log: Log) -> None:
    position = log.open_writer("run").append([event("run", 1, 1)])
    with pytest.raises(UsageError, match="key"):
        list(log.read(RUNS, after=position))
    with pytest.raises(UsageError, match="partition"):
        list(log.read(SIGNALS, "run", position))


def test_what_is_appended_while_someone_reads_is_not_in_the_way(log: Log) -> None:
    writer = log.open_writer("run")
    writer.append([event("run", 1, number) for number in range(1, 11)])
    reading = log.read(RUNS, "run")
    next(reading)
    writer.append([event("run", 1, 11)])
    assert len(list(reading)) >= 9
    assert len(read(log, RUNS, "run")) == 11


def test_an_append_over_several_topics_is_there_whole(log: Log) -> None:
    written = [asset("blueprint"), event("run", 1, 1), asset("blueprint"), event("run", 1, 2), asset("other")]
    last = log.open_writer("run").append(written)
    assert read(log, RUNS, "run") == [written[1], written[3]]
    assert len(read(log, ASSETS)) == 3
    assert last == list(log.read(RUNS, "run"))[-1].position


def test_a_refused_append_leaves_no_record_in_any_topic(log: Log) -> None:
    writer = log.open_writer("run")
    for bad in (event("run", 1, 3), event("run", 2, 2), event("other", 1, 2), event("run", 1, 1)):
        with pytest.raises(SequenceGap, match="run"):
            writer.append([asset("blueprint"), event("run", 1, 1), bad])
    assert read(log, ASSETS) == read(log, RUNS) == []
    writer.append([asset("blueprint"), event("run", 1, 1)])
    assert read(log, RUNS, "run") == [event("run", 1, 1)]


def test_the_writer_before_is_fenced_and_writes_nothing(log: Log) -> None:
    first = log.open_writer("run")
    first.append([event("run", 1, 1)])
    second = log.open_writer("run")
    assert (first.epoch, second.epoch, second.sequence) == (1, 2, 1)
    second.append([event("run", 2, 2)])
    for _ in range(2):
        with pytest.raises(Fenced, match="epoch 2") as caught:
            first.append([asset("blueprint"), event("run", 1, 2)])
        assert (caught.value.run_id, caught.value.epoch) == ("run", 2)
    assert read(log, ASSETS) == []
    assert read(log, RUNS, "run") == [event("run", 1, 1), event("run", 2, 2)]


def test_opening_a_writer_fences_before_it_has_written(log: Log) -> None:
    first = log.open_writer("run")
    log.open_writer("run")
    with pytest.raises(Fenced):
        first.append([event("run", 1, 1)])
    assert read(log, RUNS) == []


def test_the_writers_of_other_runs_are_not_fenced(log: Log) -> None:
    first = log.open_writer("run")
    log.open_writer("another")
    first.append([event("run", 1, 1)])


def test_a_new_writer_knows_the_last_sequence_number(url: str) -> None:
    for epoch in (1, 2, 3):
        log = open_log(url)
        writer = log.open_writer("run")
        assert (writer.run_id, writer.epoch, writer.sequence) == ("run", epoch, (epoch - 1) * 2)
        writer.append([event("run", epoch, writer.sequence + 1), event("run", epoch, writer.sequence + 2)])
        writer.close()
        log.close()


def test_a_writer_for_a_copy_takes_events_with_the_epochs_they_have(log: Log) -> None:
    copied = [event("run", epoch, number) for number, epoch in enumerate((1, 1, 4, 7), 1)]
    log.open_writer("run")
    first = log.open_writer("run", copied=7)
    first.append(copied[:1])
    second = log.open_writer("run", copied=7)
    assert (first.epoch, second.epoch, second.sequence) == (8, 9, 1)
    with pytest.raises(Fenced, match="epoch 9"):
        first.append(copied[1:2])
    for wrong in (event("run", 8, 3), event("run", 1, 4), event("other", 1, 3)):
        with pytest.raises(SequenceGap, match="run"):
            second.append([copied[1], wrong])
    second.append([asset("blueprint"), *copied[1:]])
    assert read(log, RUNS, "run") == copied
    trainer = log.open_writer("run")
    assert (trainer.epoch, trainer.sequence) == (10, 4)
    with pytest.raises(SequenceGap, match="run"):
        trainer.append([event("run", 7, 5)])
    trainer.append([event("run", 10, 5)])


def test_an_append_of_nothing_is_nothing(log: Log) -> None:
    writer = log.open_writer("run")
    assert writer.append([]) is None
    assert writer.append([asset("only-an-asset")]) is None
    assert log.open_writer("run").sequence == 0


def test_follow_sees_what_another_process_appends(url: str, log: Log) -> None:
    stop, seen = threading.Event(), []
    with child(url, "run", 5, 6) as process:
        for entry in log.follow(RUNS, "run", stop=stop):
            seen.append(entry.record.sequence)
            if seen[-1] == 20:
                stop.set()
        assert process.wait(60) == 0
    assert seen == list(range(1, 21))


def test_follow_goes_on_after_a_position_and_ends_when_told(log: Log) -> None:
    writer = log.open_writer("run")
    first = writer.append([event("run", 1, 1)])
    writer.append([event("run", 1, 2)])
    stop = threading.Event()
    following = log.follow(RUNS, "run", first, stop=stop)
    assert next(following).record.sequence == 2
    writer.append([event("run", 1, 3)])
    assert next(following).record.sequence == 3
    threading.Timer(0.2, stop.set).start()
    assert list(following) == []


def test_follow_without_a_key_sees_every_partition(log: Log) -> None:
    stop, seen = threading.Event(), set()
    runs = {f"run-{number}" for number in range(10)}
    follower = log.follow(RUNS, stop=stop)

    def append() -> None:
        for run in sorted(runs):
            log.open_writer(run).append([event(run, 1, 1)])

    thread = threading.Thread(target=append)
    thread.start()
    for entry in follower:
        seen.add(entry.record.key)
        if seen == runs:
            stop.set()
    thread.join()
    assert seen == runs


def test_several_processes_append_to_different_runs_at_once(url: str) -> None:
    processes = [child(url, f"run-{number}", number, 40) for number in range(4)]
    acknowledged = [process.communicate(timeout=120)[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    log = open_log(url)
    for number, lines in enumerate(acknowledged):
        run, transactions = f"run-{number}", [tuple(map(int, line.split())) for line in lines]
        wanted = [record for transaction in transactions for record in child_records(run, *transaction)]
        assert len(transactions) == 40
        assert read(log, RUNS, run) == [record for record in wanted if record.topic == RUNS]
        assert read(log, ASSETS, f"{run}-assets") == [record for record in wanted if record.topic == ASSETS]
    log.close()


def test_threads_share_a_log(log: Log) -> None:
    def work(run: str) -> None:
        writer = log.open_writer(run)
        for number in range(1, 21):
            writer.append([event(run, 1, number)])
            assert len(read(log, RUNS, run)) == number

    threads = [threading.Thread(target=work, args=(f"run-{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read(log, RUNS)) == 80


def test_a_signal_is_read_back(log: Log) -> None:
    sent = command("run", "1")
    position = log.signal(sent)
    [entry] = log.read(SIGNALS, "run")
    assert (entry.position, entry.record) == (position, sent)
    assert read(log, SIGNALS, "another") == []


def test_a_signal_that_is_sent_twice_counts_once(log: Log) -> None:
    for nonce in ("1", "2", "1", "1"):
        log.signal(command("run", nonce))
    nonces = [
        event.content.nonce for _, event in once(log.read(SIGNALS, "run")) if type(event.content) is CommandIssued
    ]
    assert nonces == ["1", "2"]


def test_one_signal_with_other_bytes_is_an_error(log: Log) -> None:
    def resend() -> None:
        log.signal(command("run", "1", reason="another"))
        list(once(log.read(SIGNALS, "run")))

    log.signal(command("run", "1"))
    with pytest.raises(SequenceConflict, match="run"):
        resend()


def test_a_signal_does_not_disturb_the_writer_of_its_run(log: Log) -> None:
    writer = log.open_writer("run")
    writer.append([event("run", 1, 1)])
    log.signal(command("run", "1"))
    writer.append([event("run", 1, 2)])
    with pytest.raises(UsageError, match="open_writer"):
        log.signal(event("run", 1, 3))
    assert len(read(log, RUNS)) == 2


def test_a_run_goes_through_the_log_and_the_readers_rule_unchanged(log: Log) -> None:
    now = datetime(2026, 11, 22, 12, 0, 0, 123456, UTC)
    cause = uuid.uuid5(uuid.NAMESPACE_URL, "a cause")
    alerts = [AlertRaised(step=step, kind="test", detail="ä\0ß", value=None) for step in range(4)]
    resumed = RunResumed(checkpoint=0, inexact=False, environment=ENVIRONMENT, notes=())
    sent = [History().events[0].content, *alerts[:3], resumed, alerts[3]]
    link = first_link("run")
    for epoch, contents in ((1, sent[:4]), (2, sent[4:])):
        writer = log.open_writer("run")
        records = [
            run_record("run", content, epoch=epoch, sequence=number, writer="t/1", time=now, causes=(cause,))
            for number, content in enumerate(contents, writer.sequence + 1)
        ]
        linked, link = chained(records, link)
        writer.append(linked)
    events = list(in_order(log.read(RUNS, "run")))
    assert [event.content for _, event in events] == sent
    for number, (entry, event) in enumerate(events, 1):
        headers = dict(entry.record.headers)
        assert (event.envelope.sequence, event.envelope.time, event.envelope.causes) == (number, now, (cause,))
        assert headers["ce_id"].decode() == str(event.envelope.id)
        assert headers["ce_time"].decode() == now.isoformat()
        assert headers["ce_source"] == b"/esper/t%2F1"
        assert (headers["ce_type"], headers["ce_specversion"]) == (name_of(type(event.content)).encode(), b"1.0")
        assert event.link is not None
        assert headers["link"] == event.link.hex().encode()
        assert headers["ce_subject"] == headers["correlation_id"] == b"run"
        assert headers["causation_id"].decode() == str(cause)
