"""The workers' views: pieces in changelogs equal folds, whatever comes; and what they serve."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from esper.cli.main import main
from esper.events import signals
from esper.events.encoding.schemas import schema_from_json, schema_of
from esper.events.topics import RUNS
from esper.log import open_log
from esper.log.chain import chained, digest, first_link
from esper.log.kafka.log import KafkaLog
from esper.log.partitions import partition_of
from esper.log.records import asset_record, signal_record
from esper.tamiyo.run.view import LARGEST
from esper.urza import register
from tests.support.command import Esper, ending, wait_until
from tests.support.logs.forging import forged, is_foreign, plant
from tests.support.services.brokers import new_log
from tests.support.services.workers import (
    Worker,
    changelog,
    digests,
    free_port,
    made_run,
    records,
    write_run,
    write_run_on,
)

NOW = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.fixture(scope="module")
def url(shared_brokers: Any) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESPER_REGISTRY", shared_brokers.registry)
        yield new_log(shared_brokers.addresses)


@pytest.fixture(scope="module")
def worker(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    worker = Worker(url, tmp_path_factory.mktemp("worker"), "one")
    try:
        yield worker.await_ready(12)
    finally:
        worker.close()


@pytest.fixture
def log(url: str) -> Iterator[KafkaLog]:
    log = open_log(url)
    assert isinstance(log, KafkaLog)
    yield log
    log.close()


@pytest.fixture
def esper(url: str, capsys: pytest.CaptureFixture[str]) -> Esper:
    return ending(capsys, "--log", url)


def test_every_record_of_the_changelog_equals_a_fold(url, worker, esper):
    runs = {f"fold-{seed}": made_run(seed, 12) for seed in range(3)}
    for run_id, events in runs.items():
        write_run(url, run_id, events)
    for run_id, events in runs.items():
        head = worker.await_run(run_id, len(events))
        shown = esper("show", run_id, "--at", len(events), "--json").json
        assert (head["sequence"], head["digest"]) == (shown["sequence"], shown["digest"])
    wanted = {run_id: digests(run_id, events) for run_id, events in runs.items()}
    heads = dict.fromkeys(runs, 0)
    for key, piece in changelog(url):
        run_id = key.partition("/")[0]
        if run_id in runs and piece is not None:
            assert piece["digest"] == wanted[run_id][piece["sequence"]]
            assert piece["sequence"] == heads[run_id] + 1  # its pieces come before the head
            heads[run_id] += key == run_id
    assert heads == {run_id: len(events) for run_id, events in runs.items()}


def test_a_run_its_seeds_and_its_decisions_are_served(url, worker):
    events = made_run(7, 15)
    write_run(url, "served", events)
    head = worker.await_run("served", len(events))
    assert head["state"]["status"] == "completed"
    seeds = worker.get("/api/v1/runs/served/seeds")["seeds"]
    assert len(seeds) == sum(head["state"]["seeds"].values())
    assert all("evidence" not in seed["state"] for seed in seeds)
    made = next(e for e in events if type(e.content).__name__ == "DecisionMade")
    decision = worker.get(f"/api/v1/decisions/served:{made.envelope.sequence}")
    assert decision["state"]["reason"] == made.content.reason
    listed = worker.get("/api/v1/runs")
    assert listed["unanswered"] == []
    assert [run["digest"] for run in listed["runs"] if run["run_id"] == "served"] == [head["digest"]]
    for path in ("/api/v1/runs/nobody", "/api/v1/runs/nobody/seeds", "/api/v1/decisions/served:1"):
        assert worker.get(path, status=404)["error"].endswith(path)
    assert worker.get("/health")["status"] == "alive"
    assert worker.metric("esper_worker_ready") == 1


def test_an_aborted_event_is_in_no_view(url, worker, log):
    """The same place of a run, written in a transaction that is aborted, and then in one that counts."""
    events, other = made_run(1, 6), made_run(2, 6)
    write_run(url, "aborted", events[:4])
    real, partition = log.address.named(RUNS), partition_of("aborted")
    producer = log.cluster.producer(transactional_id=log.address.named(str(uuid4())))
    producer.init_transactions(10)
    producer.begin_transaction()
    for record in records("aborted", other)[4:7]:
        value = log.registry.id_of(real, record.schema).to_bytes(5, "big") + record.value
        producer.produce(real, value, b"aborted", partition=partition)
    producer.flush(10)
    producer.abort_transaction(10)
    write_run_on(url, "aborted", events[4:])
    head = worker.await_run("aborted", len(events))
    wanted = digests("aborted", events)
    assert head["digest"] == wanted[len(events)]
    assert head["state"]["quarantine"] is None
    pieces = [piece for key, piece in changelog(url) if key.partition("/")[0] == "aborted" and piece is not None]
    assert all(piece["digest"] == wanted[piece["sequence"]] for piece in pieces)


def test_a_repeated_event_changes_nothing(url, worker):
    events = made_run(3, 6)
    write_run(url, "again", events)
    worker.await_run("again", len(events))
    before = [(k, p) for k, p in changelog(url) if k.partition("/")[0] == "again"]
    write_run_on(url, "again", events[2:9])  # as a log may repeat them
    more = made_run(4, 2)
    write_run(url, "after-again", more)
    worker.await_run("after-again", len(more))
    assert [(k, p) for k, p in changelog(url) if k.partition("/")[0] == "again"] == before


def test_a_foreign_record_becomes_a_dead_letter_and_its_run_goes_on(url, worker, log, esper):
    events = made_run(5, 5)
    write_run(url, "foreign", events[:6])
    producer = log.cluster.producer()
    producer.produce(log.address.named(RUNS), b"not ours", b"foreign")
    producer.produce(log.address.named(RUNS), None, b"foreign")
    producer.produce(log.address.named(RUNS), b"no key")
    producer.flush(10)
    write_run_on(url, "foreign", events[6:])
    head = worker.await_run("foreign", len(events))
    assert head["digest"] == digests("foreign", events)[len(events)]
    wait_until(lambda: len(esper("dlq", "list", "--json").out.splitlines()) > 0, "dead letters", 20)
    assert head["state"]["quarantine"] is None


def test_a_run_whose_next_event_cannot_be_read_is_quarantined_alone_until_it_can(url, worker, log):
    events, other = made_run(6, 6), made_run(8, 6)
    write_run(url, "broken", events[:5])
    producer = log.cluster.producer()
    offsets: list[int] = []
    headers = [("esper_epoch", b"1"), ("esper_sequence", b"6")]
    unknown = (0).to_bytes(1, "big") + (2**31 - 1).to_bytes(4, "big") + b"newer"
    real = log.address.named(RUNS)
    producer.produce(real, unknown, b"broken", headers=headers, on_delivery=lambda _, m: offsets.append(m.offset()))
    producer.flush(10)
    write_run_on(url, "broken", events[6:])
    head = worker.await_quarantine("broken")
    position = f"{RUNS}/{partition_of('broken')}:{offsets[0]}"
    assert head["state"]["quarantine"]["position"] == position
    assert (head["sequence"], head["digest"]) == (5, digests("broken", events)[5])
    write_run(url, "beside-broken", other)
    worker.await_run("beside-broken", len(other))


def test_a_quarantined_run_goes_on_when_its_schema_is_there_and_it_is_redriven(url, worker, log, esper):
    """The record comes before its schema is registered, under the number that this will have."""
    events = made_run(12, 6)
    newer = json.loads(schema_of(type(events[5].content)).json)
    for attempt in range(5):
        run_id = f"mended-{attempt}"
        newer["fields"].append({"name": f"future_{uuid4().hex}", "type": "int", "default": 0})
        dummy = {"type": "record", "name": f"d{uuid4().hex}", "fields": []}
        number = log.registry.id_of("test-views", schema_from_json(json.dumps(dummy))) + 1
        write_run(url, run_id, events[:5])
        worker.await_run(run_id, 5)
        body = records(run_id, events)[5].value + bytes(attempt + 1)  # a zero for each new field
        headers = [("esper_epoch", b"1"), ("esper_sequence", b"6")]
        producer = log.cluster.producer()
        producer.produce(log.address.named(RUNS), number.to_bytes(5, "big") + body, run_id.encode(), headers=headers)
        producer.flush(10)
        worker.await_quarantine(run_id)
        if log.registry.id_of("test-views", schema_from_json(json.dumps(newer))) == number:
            break
    else:
        pytest.fail("the registry gave numbers to others in between")
    write_run_on(url, run_id, events[6:])
    position = worker.await_quarantine(run_id)["state"]["quarantine"]["position"]
    wait_until(lambda: position in esper("dlq", "list").out, "the dead letter", 20)
    assert worker.get(f"/api/v1/runs/{run_id}")["sequence"] == 5
    redriven = esper("dlq", "redrive", position)
    assert redriven.code == 0, redriven.err
    head = worker.await_run(run_id, len(events), 20)
    assert head["digest"] == digests(run_id, events)[len(events)]
    assert head["state"]["quarantine"] is None


def test_a_missing_event_is_named(url, worker):
    events = made_run(9, 6)
    write_run(url, "gap", events[:4])
    write_run_on(url, "gap", events[5:])
    told = worker.await_quarantine("gap")["state"]["quarantine"]
    assert (told["kind"], told["event"]) == ("missing", 5)


def test_blueprints_and_alerts_have_views(url, worker, log):
    alert = signals.AlertRaised(step=3, kind="loss", detail="it rises", value=2.0, issuer="w", nonce="1")
    record = signal_record("alerted", alert, writer="w", time=NOW)
    events = made_run(11, 3)
    write_run(url, "alerted", events)
    log.signal(record)
    writer = log.open_writer("registers")
    for _ in range(2):  # the same content again is the same
        writer.append([asset_record(content, writer="t", time=NOW) for content in register()])
    wait_until(lambda: worker.get("/api/v1/runs/alerted")["alerts"], "the alert", 20)
    assert worker.get("/api/v1/runs/alerted")["alerts"][0]["raised"]["detail"] == "it rises"
    wanted = {content.blueprint for content in register()}
    wait_until(lambda: wanted <= {key for key, _ in changelog(url, "assets")}, "the blueprints", 20)
    keys = [key for key, _ in changelog(url, "assets")]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(("kind", "epoch"), [("RunFailed", "2^40"), ("RunFailed", "this epoch")])
def test_the_view_of_a_forged_run_says_so_and_goes_on_once_an_operator_has_taken_it_out(
    url, worker, log, esper, kind, epoch
):
    run_id, events = f"forged-{epoch.split()[0].replace('^', '')}", made_run(4)
    made = chained(records(run_id, events), first_link(run_id))[0]
    writer = log.open_writer(run_id)
    writer.append(made[:6])
    worker.await_run(run_id, 6)
    position = plant(log, forged(log, run_id, kind, epoch))
    for record in made[6:]:
        while writer.epoch < (record.epoch or 0):
            writer = log.open_writer(run_id)
        writer.append([record])
    if is_foreign(kind, epoch):
        assert worker.await_run(run_id, len(events))["state"]["quarantine"] is None
        wait_until(lambda: str(position) in esper("dlq", "list").out, "the dead letter")
    else:
        told = worker.await_quarantine(run_id)["state"]["quarantine"]
        assert (told["kind"], str(position) in told["error"]) == ("wrong", True)
    assert esper("views", "verify").code == 1
    assert esper("dlq", "exclude", position, "--why", "forged").code == 0
    head = worker.await_run(run_id, len(events))
    assert head["digest"] == digests(run_id, events)[len(events)]
    assert dict(changelog(url))[run_id]["link"] == digest(made[-1]).hex()
    assert head["state"]["quarantine"] is None
    assert run_id not in esper("views", "verify").err


def test_live_views_agree_with_a_fresh_fold_and_one_that_does_not_is_named(url, worker, log, esper):
    """Last in this file: it looks at all that the tests before it did, and then spoils a piece."""
    report = esper("views", "verify", "--json")
    assert report.json["differences"] == []
    assert report.code == 1  # for what those tests left that is none of a run's events
    assert any("run foreign: the record at" in line for line in report.json["untaken"])
    assert all(line in report.err for line in report.json["untaken"])
    assert report.json["runs"] > 0
    assert report.json["behind"] == {}
    sizes = [len(json.dumps(piece)) for table in ("runs", "assets", "alerts") for _, piece in changelog(url, table)]
    assert max(sizes) < LARGEST
    spoilt = {"sequence": 1, "digest": "0", "state": {}}
    producer = log.cluster.producer()
    name = log.address.named("esper-views-1-runs-changelog")
    producer.produce(name, json.dumps(spoilt).encode(), b"served/settings", partition=partition_of("served"))
    producer.flush(10)
    report = esper("views", "verify")
    assert report.code == 1
    assert "served/settings" in report.out


def test_a_worker_needs_a_log_on_kafka_with_topics(tmp_path: Path, kafka_log_url, capsys):
    port = ["--port", str(free_port())]  # the default one may be anybody's
    assert main(["worker", *port, "--log", f"sqlite:///{tmp_path}/log.db"]) == 2
    assert "kafka://" in capsys.readouterr().err
    missing = kafka_log_url().rpartition("/")[0] + "/none-such"
    assert main(["worker", *port, "--log", missing]) == 1
    assert "esper topics init" in capsys.readouterr().err


def test_beyond_loopback_a_token_and_tls_are_demanded(kafka_log_url, capsys, monkeypatch):
    assert main(["worker", "--log", kafka_log_url(), "--host", "0.0.0.0", "--port", str(free_port())]) == 2
    assert "ESPER_WORKER_TOKEN" in capsys.readouterr().err
