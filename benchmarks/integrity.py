"""Single bits flipped in a home, and whether ``esper verify`` and ``esper check`` see them; and what a check costs.

Artifacts are checked against reading and hashing the same files in this process, in turns; files are in the page cache.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import torch

from benchmarks.report import Figure, at_most, temporary_home
from esper.artifacts import open_store
from esper.integrity import check
from esper.log import open_log
from tests.support.logs.flips import homes, trial
from tests.support.runs.training import Loop

TITLE = "integrity: bits flipped, and a check of artifacts"
FLIPS = 10_000
WIDTH = 4096  # of a host's two layers: 128 MiB, and so much again for each of the optimiser's moments


def figures(size: int = FLIPS) -> list[Figure]:
    return [*checking(), *flips(size)]


def flips(count: int) -> list[Figure]:
    """``count`` bits, each in a home of its own; seeds from 1,000,000 on, which no test uses."""
    torch.set_num_threads(1)
    outcomes: Counter[str] = Counter()
    with temporary_home() as folder:
        live, folded = homes(Path(folder))
        for seed in range(1_000_000, 1_000_000 + count):
            outcome = trial(live, folded, seed, Path(folder))
            outcomes[outcome.what] += 1
            if outcome.what in ("silent", "raised"):
                print(outcome)
    return [
        Figure("bits flipped", count),
        Figure("seen by verify or check", outcomes["seen"]),
        Figure("harmless: nothing that is read is another", outcomes["harmless"]),
        at_most("silent", outcomes["silent"], 0),
        at_most("an error in Esper", outcomes["raised"], 0),
    ]


def checking(rounds: int = 7) -> list[Figure]:
    """A check of a run's artifacts, of the time that reading and hashing them takes."""
    with temporary_home() as folder:
        home = Path(folder)
        loop = Loop(home, model=_wide, epochs=2, gate=lambda: None)
        loop.begin()
        loop.go()
        files = [path for path in (home / "artifacts").rglob("*") if path.is_file()]
        store = open_store(f"file:///{home / 'artifacts'}")
        ours, bare = list[float](), list[float]()
        with closing(open_log(f"sqlite:///{home / 'log.db'}")) as log:
            for _ in range(rounds):
                begin = time.perf_counter()
                size = check(log, store).size
                done = time.perf_counter()
                for path in files:
                    hashlib.sha256(path.read_bytes()).hexdigest()
                bare.append(time.perf_counter() - done)
                ours.append(done - begin)
    ratio = statistics.median(each / other for each, other in zip(ours, bare, strict=True))
    return [
        Figure("bytes of artifacts", size),
        Figure("reading and hashing them, bytes/s", size / statistics.median(bare)),
        at_most("esper check, of reading and hashing", ratio, 1.3),
    ]


def _wide() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(4, WIDTH), torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, 1))
