"""Reading a partition while its brokers change: a client of ours tells what a real one told then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from confluent_kafka import KafkaError

from esper.log.kafka.reader import Reader


class Told:
    """A client's message; an error is the partition's end at that offset."""

    def __init__(self, offset: int, *, end: bool = False) -> None:
        self._offset, self._error = offset, KafkaError(KafkaError._PARTITION_EOF) if end else None

    def offset(self) -> int:
        return self._offset

    def error(self) -> KafkaError | None:
        return self._error


class Scripted(Reader):
    """Reads with a client that tells ``script``."""

    def __init__(self, *script: Told | None) -> None:
        cluster: Any = SimpleNamespace(address=SimpleNamespace(named=lambda topic: topic))
        super().__init__(cluster, None)  # type: ignore[arg-type]
        left = list(script)
        self._client: Any = SimpleNamespace(
            assign=lambda places: None, poll=lambda seconds: left.pop(0), consume=lambda number, seconds: []
        )

    @contextmanager
    def _leased(self, topic: str) -> Iterator[Any]:
        yield self._client


def offsets(reader: Reader, end: int) -> list[int]:
    return [message.offset() for message in reader.messages("topic", 0, 0, end)]


def test_a_new_leader_that_does_not_know_yet_how_far_it_is_cuts_no_read_short() -> None:
    # Its high watermark lags until its followers have asked it once.
    assert offsets(Scripted(Told(0), Told(1), Told(2, end=True), None, Told(2), Told(3)), end=4) == [0, 1, 2, 3]


def test_a_read_ends_with_the_partition_where_only_a_marker_is_left() -> None:
    assert offsets(Scripted(Told(0), Told(1), Told(3, end=True)), end=3) == [0, 1]
