"""Runs another program on a Kafka that fails, and tells its longest append.

outages.main({"transaction_timeout": 3.0, "slow_until": PATH, "faults": [...]}, "moons", "start", ...)

``transaction_timeout`` is in seconds; each step takes longer until the file ``slow_until`` exists; for ``faults`` see
there. All are optional.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import faults

from esper.log.kafka.log import KafkaLog
from esper.log.kafka.writer import KafkaWriter
from esper.log.port import Record
from esper.tolaria.trainer import Trainer

SLOW = 0.15  # seconds


def main(wanted: dict[str, Any], program: str, *arguments: Any) -> None:
    if "transaction_timeout" in wanted:
        defaults = KafkaLog.__init__.__kwdefaults__
        assert defaults is not None
        assert "transaction_timeout" in defaults
        defaults["transaction_timeout"] = wanted["transaction_timeout"]
    if "slow_until" in wanted:
        slow_down(Path(wanted["slow_until"]))
    longest = timed_appends()
    try:
        faults.main(wanted.get("faults", []), program, *arguments)
    finally:
        print(f"longest append {max(longest):.2f} s", flush=True)


def slow_down(until: Path) -> None:
    original = Trainer.train

    def train(self: Trainer, batch: Any) -> float:
        if not until.exists():
            time.sleep(SLOW)
        return original(self, batch)

    Trainer.train = train  # type: ignore[method-assign]


def timed_appends() -> list[float]:
    """Collects how long each append takes."""
    seconds = [0.0]
    original = KafkaWriter.append

    def append(self: KafkaWriter, records: list[Record]) -> Any:
        began = time.monotonic()
        try:
            return original(self, records)
        finally:
            seconds.append(time.monotonic() - began)

    KafkaWriter.append = append  # type: ignore[method-assign]
    return seconds
