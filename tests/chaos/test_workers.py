"""Workers killed, stopped, frozen and failing: the views are exact afterwards, and nobody waits long."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from esper.cli.main import main
from esper.events.topics import PARTITIONS, RUNS
from esper.log import open_log
from esper.log.kafka.log import KafkaLog
from esper.log.partitions import partition_of
from tests.support.command import wait_until
from tests.support.services.workers import (
    Worker,
    await_exit,
    changelog,
    digests,
    empty_registry,
    made_run,
    write_run,
    write_run_on,
)

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
Start = Callable[..., Worker]


@pytest.fixture
def url(kafka_log_url: Callable[[], str]) -> str:
    return kafka_log_url()


@pytest.fixture
def start(url: str, tmp_path: Path) -> Iterator[Start]:
    """Starts workers of the test's log."""
    workers: list[Worker] = []

    def started(name: str = "one", *words: object, **options: Any) -> Worker:
        workers.append(Worker(url, tmp_path, name, *words, **options))
        return workers[-1]

    yield started
    for worker in workers:
        worker.close()


def topic_of(url: str, table: str = "runs") -> tuple[KafkaLog, str]:
    log = open_log(url)
    assert isinstance(log, KafkaLog)
    return log, log.address.named(f"esper-views-1-{table}-changelog")


def verified(url: str, capsys: pytest.CaptureFixture[str]) -> Any:
    capsys.readouterr()
    code = main(["views", "verify", "--json", "--log", url])
    report = json.loads(capsys.readouterr().out)
    assert code == 0, report
    return report


def test_a_worker_killed_while_it_materialises_leaves_views_that_equal_folds(url, start, capsys):
    """Three kill -9, each while runs are being written; it goes on at once, for the group knows it by its name."""
    runs = {f"run-{seed}": made_run(seed, 40) for seed in range(9)}
    worker = start().await_ready(PARTITIONS)
    for turn in range(3):
        some = list(runs.items())[3 * turn : 3 * turn + 3]
        writing = threading.Thread(target=lambda some=some: [write_run(url, *each) for each in some])
        writing.start()
        worker.await_records(40)
        worker.kill()
        began = time.monotonic()
        worker = start(port=worker.port).await_ready(PARTITIONS)
        assert time.monotonic() - began < 30  # a session that has to run out takes longer
        writing.join()
    for run_id, events in runs.items():
        head = worker.await_run(run_id, len(events))
        assert head["digest"] == digests(run_id, events)[len(events)]
    report = verified(url, capsys)
    assert (report["runs"], report["behind"]) == (len(runs), {})
    wanted = {run_id: digests(run_id, events) for run_id, events in runs.items()}
    last: dict[str, Any] = {}
    for key, piece in changelog(url):
        if piece is None:
            continue
        assert piece["digest"] == wanted[key.partition("/")[0]][piece["sequence"]]
        before = last.get(key, {"sequence": 0})
        assert piece["sequence"] > before["sequence"] or piece == before, f"{key} went back or was applied twice"
        last[key] = piece


def test_a_worker_told_to_stop_commits_what_it_did(url, start):
    worker = start().await_ready(PARTITIONS)
    events = made_run(1, 15)
    write_run(url, "run", events, at_once=3)
    worker.await_run("run", len(events))
    assert worker.stop() == 0
    again = start(port=worker.port).await_ready(PARTITIONS)
    more = made_run(2, 3)
    write_run(url, "another", more)
    again.await_run("another", len(more))
    assert again.metric("esper_worker_records_total") == len(more)
    assert again.stop() == 0


def test_the_partitions_of_a_killed_worker_move_and_lists_say_which_did_not_answer(url, start, tmp_path, capsys):
    """Two workers with token and TLS, between them too; the requests go to the one that lives."""
    certificate = self_signed(tmp_path)
    secrets = {
        "ESPER_WORKER_TOKEN": "a token for this test",
        "ESPER_WORKER_CERTIFICATE": str(certificate / "crt.pem"),
        "ESPER_WORKER_KEY": str(certificate / "key.pem"),
        "ESPER_WORKER_CA": str(certificate / "crt.pem"),
    }
    first, second = start("one", **secrets), start("two", **secrets)
    ask = {worker: https(worker, certificate / "crt.pem") for worker in (first, second)}
    runs = {f"run-{seed}": made_run(seed, 5) for seed in range(6)}
    for run_id, events in runs.items():
        write_run(url, run_id, events)

    def all_told(worker: Worker) -> bool:
        status, answer = ask[worker]("/api/v1/runs")
        told = {run["run_id"]: run["sequence"] for run in answer["runs"]} if status == 200 else {}
        return answer is not None and answer.get("unanswered") == [] and told == {r: len(e) for r, e in runs.items()}

    wait_until(lambda: len(ask[first]("/ready")[1]["partitions"]) == PARTITIONS // 2, "an even share", 60)
    for worker in (first, second):
        wait_until(partial(all_told, worker), "a whole list", 60)
        for run_id, events in runs.items():  # whoever is asked
            status, head = ask[worker](f"/api/v1/runs/{run_id}")
            assert (status, head["digest"]) == (200, digests(run_id, events)[len(events)])
    assert ask[first]("/api/v1/runs", token=None)[0] == 401
    assert ask[first]("/api/v1/runs", token="another token, wrong")[0] == 401
    assert ask[first]("/metrics", token=None)[0] == 401
    assert ask[first]("/api/v1/runs", token="\xff\xfe no text at all")[0] == 401
    wait_until(lambda: ask[first]("/ready", token=None)[0] == 200, "being ready", 20)

    lost = ask[second]("/ready")[1]["partitions"]
    second.kill()
    began = time.monotonic()
    assert ask[first]("/api/v1/runs")[1]["unanswered"] == lost
    gone = next((run_id for run_id in runs if partition_of(run_id) in lost), None)
    assert gone is None or ask[first](f"/api/v1/runs/{gone}")[0] == 503
    wait_until(lambda: all_told(first), "the other's partitions", 40)
    moved = time.monotonic() - began
    print(f"partitions moved within {moved:.1f} s")
    assert moved < 30
    verified(url, capsys)


def test_an_event_whose_agent_failed_is_taken_again(url, start):
    """The registry is away when the first event comes: the worker ends, says why, and the next one goes on there."""
    with empty_registry() as registry:
        worker = start(ESPER_REGISTRY=registry).await_ready(PARTITIONS)
    events = made_run(3, 5)
    write_run(url, "run", events)
    assert await_exit(worker.process, 40) == 1
    assert "schema registry" in worker.errors.read_text()
    assert start(port=worker.port).await_run("run", len(events))["state"]["quarantine"] is None


def test_what_does_not_belong_into_a_changelog_does_not_keep_a_worker_from_recovering(url, start, tmp_path, capsys):
    """No JSON, no text, nothing: the tables are recovered from it, and what was overwritten is mended."""
    worker = start().await_ready(PARTITIONS)
    events, more = made_run(4, 5), made_run(5, 4)
    write_run(url, "run", events[:-1])
    worker.await_run("run", len(events) - 1)
    assert worker.stop() == 0
    log, topic = topic_of(url)
    producer = log.cluster.producer()
    partition = partition_of("run")
    for key, value in ((b"run", b"{no json"), (b"\xff\xfe", b"\x00"), (b"", b""), (b"gone", None)):
        producer.produce(topic, value, key, partition=partition)
    producer.flush(10)
    shutil.rmtree(tmp_path / "one")
    again = start(port=worker.port).await_ready(PARTITIONS, seconds=40)
    write_run_on(url, "run", events[-1:])
    write_run(url, "another", more)
    head = again.await_run("run", len(events))
    assert head["digest"] == digests("run", events)[len(events)]
    again.await_run("another", len(more))


def test_a_recovery_that_hangs_ends_the_process(url, start, tmp_path, monkeypatch):
    """Faust waits for a changelog's last offset; a transaction's marker has one, and is never delivered."""
    worker = start().await_ready(PARTITIONS)
    assert worker.stop() == 0
    log, topic = topic_of(url)
    producer = log.cluster.producer(transactional_id=log.address.named("stranger"))
    producer.init_transactions(10)
    producer.begin_transaction()
    producer.produce(topic, b"{}", b"a stranger's")
    producer.commit_transaction(10)
    shutil.rmtree(tmp_path / "one")
    monkeypatch.setenv("ESPER_TEST_WITHOUT", "patience")
    hanging = start(port=worker.port)
    assert await_exit(hanging.process, 60) == 1
    assert "were not recovered" in hanging.errors.read_text()


def test_changelogs_with_other_partitions_are_refused(url, start):
    from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]

    log, topic = topic_of(url, "assets")
    log.cluster.admin.create_topics([NewTopic(topic, 5, 1)])[topic].result(10)
    worker = start()
    assert await_exit(worker.process, 40) == 1
    said = worker.errors.read_text()
    assert f"{topic} has 5 partitions, but needs 12" in said


def test_a_worker_frozen_beyond_its_session_ends_and_writes_nothing(url, start, capsys):
    first = start("one").await_ready(PARTITIONS)
    events = made_run(6, 12)
    write_run(url, "run", events[:10])
    first.await_run("run", 10)
    first.process.send_signal(signal.SIGSTOP)
    second = start("two").await_ready(PARTITIONS)
    write_run_on(url, "run", events[10:])
    second.await_run("run", len(events))
    before = changelog(url)
    first.process.send_signal(signal.SIGCONT)
    assert await_exit(first.process, 20) == 1
    assert "did not run for" in first.errors.read_text()
    assert changelog(url) == before
    verified(url, capsys)


def test_a_new_generation_is_filled_and_the_workers_follow(url, start, capsys):
    worker = start().await_ready(PARTITIONS)
    runs = {f"run-{seed}": made_run(seed, 5) for seed in range(3)}
    for run_id, events in runs.items():
        write_run(url, run_id, events)
    for run_id, events in runs.items():
        worker.await_run(run_id, len(events))
    capsys.readouterr()
    built = subprocess.run(
        [*worker.process.args[:1], "-m", "esper", "views", "rebuild", "--json", "--log", url],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    assert json.loads(built.stdout) == {"generation": 2, "before": 1}
    wait_until(lambda: (worker.ask("/ready")[1] or {}).get("generation") == 2 and worker.ready(), "the switch", 60)
    for run_id, events in runs.items():
        assert worker.await_run(run_id, len(events))["digest"] == digests(run_id, events)[len(events)]
    assert verified(url, capsys)["generation"] == 2
    more = made_run(9, 4)
    write_run(url, "after", more)
    worker.await_run("after", len(more))


def test_a_rebuild_after_one_that_was_killed_begins_anew(url, capsys):
    log, _ = topic_of(url)
    events = made_run(0, 5)
    write_run(url, "run", events)
    ends = log.reader.ends(RUNS, range(PARTITIONS))
    killed = Consumer({"bootstrap.servers": log.address.servers, "group.id": log.address.named("esper-views-2")})
    places = [TopicPartition(log.address.named(RUNS), partition, end) for partition, end in ends.items()]
    killed.commit(offsets=places, asynchronous=False)  # it had come that far
    killed.close()
    subprocess.run(
        [sys.executable, "-m", "esper", "views", "rebuild", "--log", url], capture_output=True, timeout=60, check=True
    )
    assert verified(url, capsys)["runs"] == 1
    assert {key for key, _ in changelog(url, generation=2)} >= {"run"}
    log.close()


def self_signed(folder: Path) -> Path:
    """A key and a certificate for 127.0.0.1."""
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-days", "2", "-keyout", str(folder / "key.pem"), "-out", str(folder / "crt.pem")]
    subprocess.run([*command, *files, *subject], check=True, capture_output=True)
    return folder


def https(worker: Worker, authority: Path) -> Callable[..., tuple[int, Any]]:
    """Asks a worker by TLS, with the tests' token unless another is given."""
    import ssl
    import urllib.error
    import urllib.request

    context = ssl.create_default_context(cafile=str(authority))

    def ask(path: str, token: str | None = "a token for this test") -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(f"https://127.0.0.1:{worker.port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=8, context=context) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())
        except OSError:
            return 0, {"partitions": [], "runs": []}

    return ask
