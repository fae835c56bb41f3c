"""``kill -9`` of a copy, again and again, loses and repeats nothing."""

from __future__ import annotations

import random
import subprocess
import sys
import time

import pytest

from esper.events.topics import RUNS, SIGNALS
from esper.log.port import Log
from tests.support.logs.copying import command, held, logs, records, urls, write
from tests.support.runs.histories import simulate
from tests.support.services.adapters import ROOT

__all__ = ["logs", "urls"]  # fixtures

COPYING = """
import sys
from esper.cli.main import main
from esper.log import copy

def told(records, batches=copy._batches):
    for batch in batches(records):
        print("a batch", flush=True)
        yield batch

copy.BATCH_RECORDS, copy._batches = 10, told
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.chaos
def test_a_copy_that_is_killed_anywhere_is_finished_by_the_next(urls: tuple[str, str], logs: tuple[Log, Log]) -> None:
    """One process after another copies until one of them gets to the end, killed at random moments of its work."""
    source, destination = logs
    write(source, records(simulate(random.Random(1), 120)))
    source.signal(command("1"))
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    moments, kills = random.Random(seed), 0
    while True:
        process = subprocess.Popen(
            [sys.executable, "-c", COPYING, "copy", *urls], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        if kills < 3:
            for _ in range(moments.randint(1, 5)):
                process.stdout.readline()
            time.sleep(moments.random() * 0.01)
            process.kill()
            kills += 1
        process.stdout.read()
        code = process.wait(120)
        process.stdout.close()
        if code == 0:
            break
    assert held(destination, RUNS) == held(source, RUNS)
    assert held(destination, SIGNALS) == held(source, SIGNALS)
    assert kills
