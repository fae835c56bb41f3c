"""A committed append survives ``kill -9`` of the process that made it, whatever the adapter."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from esper.events.topics import ASSETS, RUNS
from esper.log import open_log
from esper.log.port import Log
from tests.support.logs.log_child import records
from tests.support.services.adapters import child

KILLS = 10


def whole_run(log: Log) -> list[tuple[int, int, int]]:
    """The run's transactions as its assets tell them, once its events have been found to match them exactly."""
    told = [record.value.decode().split() for record in (e.record for e in log.read(ASSETS, "run-assets"))]
    transactions = [(int(epoch), int(first), int(last)) for epoch, first, last in told]
    wanted = [record for transaction in transactions for record in records("run", *transaction)]
    assert [entry.record for entry in log.read(RUNS, "run")] == [r for r in wanted if r.topic == RUNS]
    ends = [0, *(last for _, _, last in transactions)]
    assert [first for _, first, _ in transactions] == [end + 1 for end in ends[:-1]]
    return transactions


@pytest.mark.chaos
def test_what_was_acknowledged_before_a_kill_is_in_the_log_whole(log_url_factory: Callable[[], str]) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    moments, url = random.Random(seed), log_url_factory()
    acknowledged: list[tuple[int, int, int]] = []
    for kill in range(KILLS):
        with child(url, "run", f"{seed}/{kill}") as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(moments.randint(0, 60))]
            time.sleep(moments.random() * 0.02)
            process.kill()
            lines += process.stdout.readlines()
        complete = [tuple(map(int, line.split())) for line in lines if line.endswith("\n")]
        acknowledged += [(epoch, first, last) for epoch, first, last in complete]
        log = open_log(url)
        transactions = whole_run(log)
        # A kill may fall between a commit and its acknowledgement: one transaction more at each kill, never one less.
        assert set(acknowledged) <= set(transactions)
        assert len(transactions) <= len(acknowledged) + kill + 1
        log.close()
    log = open_log(url)
    assert log.open_writer("run").sequence == whole_run(log)[-1][2]
    assert len(acknowledged) > KILLS
    log.close()


@pytest.mark.chaos
def test_a_kill_does_not_hinder_those_who_share_the_log(log_url_factory: Callable[[], str]) -> None:
    url = log_url_factory()
    with child(url, "other", 1) as victim, child(url, "run", 2, 200) as survivor:
        assert victim.stdout is not None
        for _ in range(20):
            victim.stdout.readline()
        victim.kill()
        lines = survivor.communicate(timeout=120)[0].splitlines()
    assert survivor.returncode == 0
    log = open_log(url)
    assert [" ".join(map(str, transaction)) for transaction in whole_run(log)] == lines
    log.close()
