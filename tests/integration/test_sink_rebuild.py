"""The tables made anew from a long log are those that were filled while it grew."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.rebuild import digests, growing
from esper.log import open_log
from esper.nissa.sink.sink import Sink
from tests.support.services.warehouse import Database

EVENTS = 100_000


@pytest.mark.slow
def test_a_hundred_thousand_events_made_anew_have_the_digests_of_those_filled_live(
    database: Database, tmp_path: Path
) -> None:
    log = open_log(f"sqlite:///{tmp_path / 'log.db'}")
    sink = Sink(database.client, log)
    sink.begin_all()
    for _ in growing(log, EVENTS):
        sink.advance()
    live = digests(database.client)
    assert live["events"][0] == EVENTS
    assert live["telemetry"][0] >= 200_000
    assert sum(rows > 0 for rows, _ in live.values()) >= 8
    Sink(database.client, log).rebuild()
    assert digests(database.client) == live
