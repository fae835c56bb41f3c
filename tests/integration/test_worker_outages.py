"""A worker at its start and while brokers are away: what it says, and what ``/ready`` tells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from esper.cli.main import main
from streams import app
from tests.support.command import wait_until
from tests.support.services.brokers import Brokers, new_log
from tests.support.services.workers import Worker, free_port, made_run, write_run


@pytest.fixture
def never_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(make: object) -> None:
        pytest.fail("a worker that should have been refused was run")

    monkeypatch.setattr(app, "run", run)


def start(url: str, data: Path, name: str = "one") -> int:
    return main(["worker", "--log", url, "--name", name, "--data", str(data), "--port", str(free_port())])


@pytest.mark.usefixtures("never_run")
def test_a_registry_that_is_none_is_told_of_at_the_start(
    kafka_log_url: Callable[[], str],
    shared_brokers: Brokers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = kafka_log_url()
    for registry in (f"http://127.0.0.1:{free_port()}", f"{shared_brokers.registry}/no/such/path"):
        monkeypatch.setenv("ESPER_REGISTRY", registry)
        assert start(url, tmp_path) == 1
        told = capsys.readouterr().err
        assert told.startswith(f"esper: schema registry {registry}: ")
        assert "ESPER_REGISTRY" in told
        assert len(told.splitlines()) == 1


@pytest.mark.slow
def test_a_worker_is_ready_when_it_has_caught_up_and_the_brokers_answer(
    own_cluster: Callable[..., Brokers], tmp_path: Path
) -> None:
    brokers = own_cluster(1)
    url = new_log(brokers.addresses)
    runs = {f"run-{seed}": made_run(seed, 25) for seed in range(3)}
    for run_id, events in runs.items():
        write_run(url, run_id, events)
    worker = Worker(url, tmp_path, "one")
    try:
        whys = _until_ready(worker)
        heads = {run["run_id"]: run["sequence"] for run in worker.get("/api/v1/runs")["runs"]}
        assert heads == {run_id: len(events) for run_id, events in runs.items()}
        assert any("catching up" in why for why in whys)
        assert start(url, tmp_path / "one") == 2  # on another port

        brokers.kill(1)
        wait_until(lambda: not worker.ready(), "that the brokers are missed", 15)
        status, told = worker.ask("/ready")
        assert (status, told["why"]) == (503, f"kafka {brokers.addresses} does not answer")
        assert worker.get("/api/v1/runs/run-1")["sequence"] == len(runs["run-1"])  # what it has is served
        brokers.restart(1)
        worker.await_ready()
        away, back = worker.errors.read_text().splitlines()[1:]
        assert away == f"esper: worker one: kafka {brokers.addresses} does not answer; waiting until it does"
        assert back == f"esper: worker one: kafka {brokers.addresses} answers again"
        write_run(url, "after", runs["run-0"])
        worker.await_run("after", len(runs["run-0"]))
    finally:
        worker.close()


def _until_ready(worker: Worker) -> set[str]:
    """Why it was not ready until it was."""
    whys: set[str] = set()

    def ready() -> bool:
        told: Any
        status, told = worker.ask("/ready")
        if status == 503:
            whys.add(told["why"])
        return status == 200

    wait_until(ready, "the worker being ready")
    return whys
