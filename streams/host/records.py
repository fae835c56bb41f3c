"""Records as Faust hands them over, as entries of the log's port."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from faust.types import Message

from esper.errors import DecodeError
from esper.log.deadletter import sending_to
from esper.log.kafka.frames import schema_id
from esper.log.kafka.log import KafkaLog
from esper.log.port import Entry

T = TypeVar("T")


async def in_thread(call: Callable[..., T], *arguments: Any) -> T:
    """``call(*arguments)`` without keeping the other agents and the group waiting."""
    return await asyncio.get_running_loop().run_in_executor(None, partial(call, *arguments))


class Records:
    """Reads the records of one log. What cannot be read becomes a dead letter."""

    def __init__(self, log: KafkaLog, writer: str) -> None:
        self.log, self.writer = log, writer
        self._schemas: set[int] = set()  # known, so that no registry is asked
        self._unreadable = sending_to(log, writer)

    async def entry(self, topic: str, message: Message) -> Entry:
        """``message`` of ``topic`` (as the port names it)."""
        number, given = schema_id(message.value), _Given(message)
        if number is None or number in self._schemas:
            return self.log.reader.entry(topic, given)
        entry = await in_thread(self.log.reader.entry, topic, given)
        if entry.error is None:
            self._schemas.add(number)
        return entry

    async def bury(self, entry: Entry, error: DecodeError) -> None:
        """Make ``entry`` a dead letter."""
        await in_thread(self._unreadable, entry, error)


class _Given:
    """A Faust message with the methods of confluent_kafka's, which the log's reader knows."""

    __slots__ = ("_message",)

    def __init__(self, message: Message) -> None:
        self._message = message

    def key(self) -> bytes | None:
        return self._message.key

    def value(self) -> bytes | None:
        return self._message.value

    def headers(self) -> list[tuple[str, bytes]]:
        headers: Any = self._message.headers or ()
        return list(headers.items() if isinstance(headers, dict) else headers)

    def partition(self) -> int:
        return self._message.partition

    def offset(self) -> int:
        return self._message.offset

    def timestamp(self) -> tuple[int, int]:
        return 1, int(self._message.timestamp * 1000)
