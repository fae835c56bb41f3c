"""Workers as processes, and what lies in their changelogs, read by a client that knows nothing of them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import confluent_kafka

from esper.events import Event
from esper.events.topics import RUNS
from esper.log import open_log
from esper.log.kafka.log import KafkaLog
from esper.log.port import Record
from esper.log.records import record_of
from esper.tamiyo.run.fold import fold
from esper.tamiyo.run.state import RunState
from tests.support.command import wait_until
from tests.support.paths import ROOT
from tests.support.runs.histories import simulate


class Worker:
    """``esper worker``; ``ESPER_TEST_WITHOUT=REMEDY`` takes a remedy away from all, to see their tests fail."""

    def __init__(self, url: str, folder: Path, name: str, *words: object, port: int = 0, **env: str) -> None:
        self.port = port or free_port()
        self.errors = folder / f"{name}-{self.port}.txt"
        self.address = f"http://127.0.0.1:{self.port}"
        without = os.environ.get("ESPER_TEST_WITHOUT", "nothing")
        command = [sys.executable, "-m", "tests.programs.worker", without, "worker", "--log", url, "--name", name]
        command += ["--port", str(self.port), "--data", str(folder / name), *map(str, words)]
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdout=errors, stderr=errors, env={**os.environ, **env}, start_new_session=True
            )

    def get(self, path: str, status: int = 200, timeout: float = 5) -> Any:
        found, answer = self.ask(path, timeout=timeout)
        assert found == status, answer
        return answer

    def ask(self, path: str, timeout: float = 5, **headers: str) -> tuple[int, Any]:
        """Status and JSON; 0 where nobody answers."""
        request = urllib.request.Request(f"{self.address}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read() or b"null")
        except (OSError, ValueError):
            return 0, None

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"{self.address}/metrics", timeout=5) as response:
            lines = response.read().decode().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))

    def ready(self, partitions: int | None = None) -> bool:
        status, answer = self.ask("/ready", timeout=1)
        return status == 200 and (partitions is None or len(answer["partitions"]) == partitions)

    def await_ready(self, partitions: int | None = None, seconds: float = 60) -> Worker:
        wait_until(lambda: self.ready(partitions) or self._died(), f"{self.errors.name} being ready", seconds)
        return self

    def await_run(self, run_id: str, sequence: int, seconds: float = 60) -> dict[str, Any]:
        """The run's head, once its view has reached ``sequence``."""

        def reached() -> bool:
            status, head = self.ask(f"/api/v1/runs/{run_id}")
            return (status == 200 and head["sequence"] >= sequence) or self._died()

        wait_until(reached, f"run {run_id} at {sequence}", seconds)
        head: dict[str, Any] = self.get(f"/api/v1/runs/{run_id}")
        return head

    def await_quarantine(self, run_id: str) -> dict[str, Any]:
        """The run's head, once it says what is wrong."""

        def told() -> bool:
            status, head = self.ask(f"/api/v1/runs/{run_id}")
            return (status == 200 and head["state"]["quarantine"] is not None) or self._died()

        wait_until(told, f"a quarantine of run {run_id}")
        head: dict[str, Any] = self.get(f"/api/v1/runs/{run_id}")
        return head

    def await_records(self, number: int) -> None:
        """Until it has taken more than so many records of runs."""
        wait_until(lambda: self.metric("esper_worker_records_total") > number, "some records")

    def _died(self) -> bool:
        assert self.process.poll() is None, self.errors.read_text()
        return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self, seconds: float = 30) -> int:
        """SIGTERM, and the code it exits with."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class _NoSchemas(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        answer = b'{"error_code": 40403, "message": "no such schema"}'
        self.send_response(404)
        self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *told: object) -> None:
        pass


@contextlib.contextmanager
def empty_registry() -> Iterator[str]:
    """The URL of a schema registry that has nothing, and is away afterwards."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _NoSchemas) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def made_run(seed: int = 0, boundaries: int = 10, *, end: bool = True) -> list[Event]:
    return simulate(random.Random(seed), boundaries, end=end).events


def records(run_id: str, events: Sequence[Event]) -> list[Record]:
    return [record_of(RUNS, run_id, event.envelope, event.content) for event in events]


def write_run(url: str, run_id: str, events: Sequence[Event], at_once: int = 5) -> None:
    """Append a run in transactions of ``at_once`` events, by writers of the epochs that its events have."""
    log = open_log(url)
    made = records(run_id, events)
    writer = log.open_writer(run_id)
    while made:
        while writer.epoch < (made[0].epoch or 0):
            writer.close()
            writer = log.open_writer(run_id)
        batch = [record for record in made[:at_once] if record.epoch == made[0].epoch]
        writer.append(batch)
        made = made[len(batch) :]
    writer.close()
    log.close()


def write_run_on(url: str, run_id: str, events: Sequence[Event]) -> None:
    """Go on with a run, its events as they are, whatever their epoch."""
    log = open_log(url)
    assert isinstance(log, KafkaLog)
    producer = log.cluster.producer()
    real = log.address.named(RUNS)
    for record in records(run_id, events):
        value = log.registry.id_of(real, record.schema).to_bytes(5, "big") + record.value
        headers = [("esper_epoch", str(record.epoch).encode()), ("esper_sequence", str(record.sequence).encode())]
        producer.produce(real, value, run_id.encode(), headers=headers)
    producer.flush(10)
    log.close()


def digests(run_id: str, events: Sequence[Event]) -> dict[int, str]:
    """What ``esper show RUN --at SEQUENCE --json`` prints as digest, by sequence."""
    state, found = RunState(run_id), {}
    for event in events:
        state = fold(state, (event,))
        found[state.sequence] = state.digest_of_state()
    return found


def changelog(url: str, table: str = "runs", generation: int = 1) -> list[tuple[str, Any]]:
    """Every record of a table's changelog as (key, JSON), in the order of each partition, by a plain consumer."""
    log = open_log(url)
    assert isinstance(log, KafkaLog)
    name = log.address.named(f"esper-views-{generation}-{table}-changelog")
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": log.address.servers,
            "group.id": "test",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 10,
        }
    )
    partitions = consumer.list_topics(name).topics[name].partitions
    consumer.assign([confluent_kafka.TopicPartition(name, partition, 0) for partition in partitions])
    found: list[tuple[str, Any]] = []
    ended: set[int] = set()
    while len(ended) < len(partitions):
        first = consumer.poll(10)
        assert first is not None, f"nothing comes from {name}"
        for message in (first, *consumer.consume(500, 0)):
            if message.error() is not None:
                assert message.error().code() == confluent_kafka.KafkaError._PARTITION_EOF, message.error()
                ended.add(message.partition())
            else:
                value = message.value()
                found.append((message.key().decode(), None if value is None else json.loads(value)))
    consumer.close()
    log.close()
    return found


def await_exit(process: subprocess.Popen[Any], seconds: float) -> int:
    began = time.monotonic()
    code = process.wait(seconds)
    assert time.monotonic() - began < seconds
    return code
