"""Several sinks beside each other on one database: each fills the partitions that it has of the log.

A sink that was stopped or cut off for so long that others took over must write nothing more when it goes on. So it asks
before each change, not just before each batch, whether it may. What remains is one request: half sent when the sink was
stopped, and still taken from it after the others began. An insert leaves rows that the others write too, and merging
keeps one of each; but rollups count them twice, which ``esper analytics check`` tells and ``rebuild`` mends.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

from esper.errors import AnalyticsError, LogError
from esper.events.topics import ANALYSED, PARTITIONS
from esper.log.port import Log, Share, ShareChange
from esper.nissa.sink.sink import Sink

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

GROUP = "esper-sink"
"""What the names of the sinks' groups begin with."""
SHARE_TIMEOUT, LOOK = 30.0, 0.5
"""Seconds to wait for all partitions, which those of a sink that was killed come after; and between two looks."""
_Place = tuple[str, int]
T = TypeVar("T")


def group_of(client: Client) -> str:
    """The group of those who fill this database, whatever address they call it by."""
    [(server, name)] = client.query("SELECT toString(serverUUID()), currentDatabase()").result_rows
    return f"{GROUP}-{hashlib.sha256(f'{server}/{name}'.encode()).hexdigest()[:12]}"


def guarded(client: Client, share: Share) -> Client:
    """``client``, but it changes nothing unless ``share`` is sure; else it raises LogError."""
    return cast("Client", _Guarded(client, share.sure))


@contextmanager
def whole(client: Client, log: Log) -> Iterator[Client]:
    """A client that may change what it wants, since no sink fills the database; raises AnalyticsError if one does."""
    with log.share(ANALYSED, group_of(client)) as share:
        has, deadline = 0, time.monotonic() + SHARE_TIMEOUT
        while has < len(ANALYSED) * PARTITIONS:
            if time.monotonic() > deadline:
                raise AnalyticsError(f"another esper sink fills the database from {log.url}; end that first")
            change = share.poll(LOOK)
            has += sum(map(len, change.taken.values())) - sum(map(len, change.lost.values()))
        yield cast("Client", _Guarded(client, lambda: not share.poll().lost and share.sure()))  # polled: it is not hung


class _Guarded:
    def __init__(self, client: Client, sure: Callable[[], bool]) -> None:
        self._client, self._sure = client, sure

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        return self._asking(found) if name in ("command", "raw_insert") or name.startswith("insert") else found

    def _asking(self, call: Callable[..., T]) -> Callable[..., T]:
        @wraps(call)
        def asked(*arguments: Any, **more: Any) -> T:
            if not self._sure():
                raise LogError("this sink was away, or its log is: others may fill what it filled")
            return call(*arguments, **more)

        return asked


class Shared:
    """What ``sink`` fills of a log that it shares; its client is ``guarded`` by the same ``share``."""

    def __init__(self, sink: Sink, share: Share) -> None:
        self._sink, self._share = sink, share
        self._has: set[_Place] = set()
        self._unbegun: set[_Place] = set()
        self._coming: list[ShareChange] = []

    def begin(self) -> bool:
        """Begin what is new, and leave what is lost; whether there is something that the sink may fill now."""
        self._look(0.0)
        self._settle()
        for topic, partitions in _by_topic(self._unbegun).items():
            self._sink.begin(topic, partitions)
            self._unbegun -= {(topic, partition) for partition in partitions}
        return bool(self._has) and self._share.sure()

    def still(self) -> bool:
        """Whether the sink may go on as it is."""
        return not self._look(0.0) and self._share.sure()

    def again(self) -> None:
        """All has to be begun anew, after trouble."""
        self._unbegun = set(self._has)

    def rest(self, stop: threading.Event, seconds: float) -> None:
        """Wait, but not if there is something new. Raises LogError."""
        deadline = time.monotonic() + seconds
        while not stop.is_set() and (left := deadline - time.monotonic()) > 0 and not self._look(min(LOOK, left)):
            pass

    def _look(self, wait: float) -> bool:
        """Whether something has changed. It is settled later: the sink may be in the middle of something."""
        if change := self._share.poll(wait, self._sink.places):
            self._coming.append(change)
        return bool(self._coming)

    def _settle(self) -> None:
        while self._coming:
            change = self._coming.pop(0)
            for topic, partitions in change.lost.items():
                self._sink.leave(topic, partitions)
                self._has -= {(topic, partition) for partition in partitions}
            self._unbegun &= self._has
            taken = {(topic, partition) for topic, partitions in change.taken.items() for partition in partitions}
            self._has |= taken
            self._unbegun |= taken


def _by_topic(places: Collection[_Place]) -> dict[str, set[int]]:
    """The dead letters last, as the sink has the topics: filling the others may make some."""
    return {
        topic: partitions
        for topic in ANALYSED
        if (partitions := {partition for of_topic, partition in places if of_topic == topic})
    }
