"""Broken requests to a worker that runs: whatever comes, it goes on, and its log has no word of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.support.services.broken_http import BROKEN, send
from tests.support.services.workers import Worker


def test_a_workers_log_has_no_word_of_requests_that_are_no_http(
    kafka_log_url: Callable[[], str], tmp_path: Path
) -> None:
    worker = Worker(kafka_log_url(), tmp_path, "one")
    try:
        worker.await_ready()
        before = worker.errors.read_text()
        for request in BROKEN.values():
            send(worker.port, request)
        assert worker.ask("/api/v1/runs", Host="evil.example")[0] == 403
        assert worker.ready()
        assert worker.errors.read_text() == before
    finally:
        worker.close()
