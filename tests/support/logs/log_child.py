"""A process that appends to a log and prints each commit: ``URL RUN_ID SEED [COMMITS]``.

A line is ``epoch first last``: the sequence numbers that a transaction committed. Each transaction also holds an
asset that repeats them, so that half a transaction can be told from a whole one.
"""

from __future__ import annotations

import random
import sys

from esper.events.encoding.schemas import schema_of
from esper.events.runs import AlertRaised
from esper.events.topics import ASSETS, RUNS
from esper.log import open_log
from esper.log.port import Record


def records(run_id: str, epoch: int, first: int, last: int) -> list[Record]:
    """One transaction: events ``first`` to ``last`` and the asset that says so."""
    schema = schema_of(AlertRaised)
    events = [
        Record(RUNS, run_id, schema, b"%d " % number * (number % 400), (("n", b"%d" % number),), epoch, number)
        for number in range(first, last + 1)
    ]
    return [*events, Record(ASSETS, f"{run_id}-assets", schema, f"{epoch} {first} {last}".encode())]


def main(url: str, run_id: str, seed: str, commits: str = "1000000") -> None:
    sizes = random.Random(seed)
    log = open_log(url)
    writer = log.open_writer(run_id)
    last = writer.sequence
    for _ in range(int(commits)):
        first, last = last + 1, last + sizes.randint(1, 8)
        writer.append(records(run_id, writer.epoch, first, last))
        print(writer.epoch, first, last, flush=True)
    log.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
