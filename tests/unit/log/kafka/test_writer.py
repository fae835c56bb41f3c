"""Telling a rival from an outage, where the log takes its time to answer."""

from __future__ import annotations

import time
from typing import Any

import pytest

from esper.log.kafka import writer
from esper.log.kafka.index import RunIndex


class Slow:
    """A log whose first answer waits for somebody's open transaction, as the rival's claim does too."""

    closing = False

    def __init__(self) -> None:
        self.asked = 0

    def newest_epoch(self, run_id: str, hint: RunIndex) -> int:
        self.asked += 1
        if self.asked == 1:
            time.sleep(3 * writer.GRACE)
        return 1 if self.asked < 3 else 2


def test_a_rival_has_its_time_after_the_wait_that_delayed_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "GRACE", 0.3)
    log: Any = Slow()
    assert writer._rival(log, "run", RunIndex(1, "mine"), log) == 2
