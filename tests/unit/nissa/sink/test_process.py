"""The sink as a process: what it does in trouble, and what it says."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from typing import Any

import pytest

from esper.errors import AnalyticsError, LogError
from esper.events.topics import ANALYSED
from esper.nissa.sink import process as following
from esper.nissa.sink.process import OPEN_AFTER, SinkProgress, follow


class Faulty:
    """A sink whose calls fail as ``faults`` says: each is called with the name, and raises or does not."""

    def __init__(self, *faults: Callable[[str], None]) -> None:
        self.places: dict[str, dict[int, int]] = {topic: {} for topic in ANALYSED}
        self.calls: list[str] = []
        self.stop = threading.Event()
        self._faults = list(faults)

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self._faults:
            self._faults.pop(0)(name)
        elif name == "advance":
            self.stop.set()

    def begin(self, topic: str, partitions: Collection[int]) -> None:
        if topic == ANALYSED[0]:
            self._called("begin")
        self.places[topic] |= dict.fromkeys(partitions, -1)

    def leave(self, topic: str, partitions: Collection[int]) -> None: ...

    def advance(self, *_: object) -> int:
        self._called("advance")
        return 3

    def probe(self) -> None:
        self._called("probe")


def fails(_: str) -> None:
    raise AnalyticsError("the server is away")


def fails_too(_: str) -> None:
    raise LogError("the log is away")


def works(_: str) -> None: ...


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(following, "LONGEST_PAUSE", 0.002)
    monkeypatch.setattr(following, "INTERVAL", 0.001)


def followed(sink: Any) -> SinkProgress:
    progress = SinkProgress()
    follow(sink, sink.stop, progress)
    return progress


def test_trouble_with_either_end_is_waited_out_and_what_was_begun_is_begun_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink = Faulty(fails, works, fails_too, fails)
    with caplog.at_level(logging.WARNING, "esper"):
        progress = followed(sink)
    assert sink.calls == ["begin", "begin", "advance", "begin", "begin", "advance"]
    assert (progress.records, progress.failures, progress.trouble) == (3, 3, "")
    assert progress.caught_up > 0
    assert [record.getMessage() for record in caplog.records] == [
        "the sink waits: the server is away",
        "the sink goes on",
    ]


def test_after_many_failures_it_only_probes_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    sink = Faulty(*[fails] * OPEN_AFTER, *[fails] * 3, works, fails, works)
    with caplog.at_level(logging.WARNING, "esper"):
        progress = followed(sink)
    begun, probed = ["begin"] * OPEN_AFTER, ["probe"] * 3
    assert sink.calls == [*begun, *probed, "probe", "begin", "probe", "begin", "advance"]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3
    assert f"{OPEN_AFTER} times in a row" in said[1]
    assert said[2] == "the sink goes on"
    assert not progress.probing


def test_it_is_told_that_it_probes_until_it_works_again() -> None:
    seen: list[bool] = []
    progress = SinkProgress()

    def look(_: str) -> None:
        seen.append(progress.probing)

    sink = Faulty(*[fails] * OPEN_AFTER, look, look, look)
    thread = threading.Thread(target=follow, args=(sink, sink.stop, progress))
    thread.start()
    thread.join(10)
    assert seen == [True, True, True]
    assert not progress.probing


def test_an_error_in_esper_itself_ends_it() -> None:
    def wrong(_: str) -> None:
        raise TypeError("no such thing")

    with pytest.raises(TypeError):
        followed(Faulty(wrong))
