from __future__ import annotations

from tests.support.logs.faulty import faults
from tests.support.runs.quiet import no_pauses, one_thread
from tests.support.services.adapters import log, log_url_factory, url
from tests.support.services.brokers import (
    kafka_log_url,
    own_cluster,
    pytest_report_header,
    pytest_sessionfinish,
    pytest_terminal_summary,
    pytest_testnodedown,
    shared_brokers,
)
from tests.support.services.warehouse import database

__all__ = [
    "database",
    "faults",
    "kafka_log_url",
    "log",
    "log_url_factory",
    "no_pauses",
    "one_thread",
    "own_cluster",
    "pytest_report_header",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "pytest_testnodedown",
    "shared_brokers",
    "url",
]
