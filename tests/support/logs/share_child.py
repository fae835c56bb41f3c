"""A process of its own that shares a log: ``python -m tests.support.logs.share_child URL GROUP TOPIC...``.

What it says are lines of JSON: what it has, once that is all; then, ten times a second and without a poll, when it
asked (``time.monotonic``) whether it is sure, and the answer; and when it is not, what it has after each poll.
"""

from __future__ import annotations

import json
import sys
import time

from esper.events.topics import PARTITIONS
from esper.log import open_log
from esper.log.port import Share, ShareChange


def applied(have: dict[str, set[int]], change: ShareChange) -> None:
    """Bring ``have`` up to date."""
    for topic, partitions in change.lost.items():
        have.setdefault(topic, set()).difference_update(partitions)
    for topic, partitions in change.taken.items():
        have.setdefault(topic, set()).update(partitions)


def say(what: object) -> None:
    sys.stdout.write(json.dumps(what, default=sorted) + "\n")
    sys.stdout.flush()


def watch(share: Share, topics: int) -> None:
    have: dict[str, set[int]] = {}
    while sum(map(len, have.values())) < PARTITIONS * topics:
        applied(have, share.poll(0.1))
    say(have)
    sure = True
    while sure:
        asked, sure = time.monotonic(), share.sure()
        say([asked, sure])
        time.sleep(0.1)
    while change := share.poll(5.0):
        applied(have, change)
        say(have)


def main(url: str, group: str, *topics: str) -> None:
    with open_log(url).share(topics, group) as share:
        watch(share, len(topics))


if __name__ == "__main__":
    main(*sys.argv[1:])
