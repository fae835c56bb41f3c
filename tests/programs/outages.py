"""Runs another program on a Kafka whose transactions time out soon, with faults, and tells its longest append.

outages.main(3.0, [{"at": "append", "when": "before"}], "moons", "start", ...)
"""

from __future__ import annotations

import time
from typing import Any

import faults

from esper.log.kafka.log import KafkaLog
from esper.log.kafka.writer import KafkaWriter
from esper.log.port import Record


def main(transaction_timeout: float | None, wanted: list[dict[str, Any]], program: str, *arguments: Any) -> None:
    if transaction_timeout is not None:
        defaults = KafkaLog.__init__.__kwdefaults__
        assert defaults is not None
        assert "transaction_timeout" in defaults
        defaults["transaction_timeout"] = transaction_timeout
    longest = 0.0
    original = KafkaWriter.append

    def append(self: KafkaWriter, records: list[Record]) -> Any:
        nonlocal longest
        began = time.monotonic()
        try:
            return original(self, records)
        finally:
            longest = max(longest, time.monotonic() - began)

    KafkaWriter.append = append  # type: ignore[method-assign]
    try:
        faults.main(wanted, program, *arguments)
    finally:
        print(f"longest append {longest:.2f} s", flush=True)
