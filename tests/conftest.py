from __future__ import annotations

from tests.adapters import log_url_factory
from tests.brokers import kafka_log_url, own_cluster, pytest_report_header, pytest_terminal_summary, shared_brokers

__all__ = [
    "kafka_log_url",
    "log_url_factory",
    "own_cluster",
    "pytest_report_header",
    "pytest_terminal_summary",
    "shared_brokers",
]
