"""Tables that keep our promises: bytes under text keys, changelog first.

A local copy is written after its changelog, so it is never ahead of what another worker would recover; Faust writes it
before, and a worker killed in between would skip the event as known. A key lies in the partition that its run's events
lie in, whatever Faust's router makes of the key. Nothing that lies in a changelog can make a recovery fail.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import faust
import rocksdict
from faust.stores import rocksdb

from streams.host.safe import SafeApp, Ticket, end

CACHE, BUFFER = 8 << 20, 4 << 20
"""Bytes of block cache and of write buffer for each partition of a table; Faust's own choice is 2 GiB of cache."""


def store_options() -> dict[str, Any]:
    """Options of Faust's RocksDB store, chosen so that a partition takes little memory."""
    return {
        "driver": "rocksdict",
        "block_cache_size": CACHE,
        "write_buffer_size": BUFFER,
        "max_write_buffer_number": 2,
        "target_file_size_base": 16 << 20,
        "max_open_files": 64,
    }


class Pieces(faust.Table):  # type: ignore[type-arg]
    """A table of bytes under text keys, changelog first."""

    app: SafeApp
    data: rocksdb.Store

    def __init__(self, app: SafeApp, name: str) -> None:
        super().__init__(
            app,
            name=name,
            key_type=bytes,
            value_type=bytes,
            partitions=app.conf.topic_partitions,
            options=store_options(),
            beacon=app.tables.beacon,
        )
        app.tables.add(self)
        self._coming: dict[str, tuple[Ticket, bytes | None]] = {}
        app.caches.append(self._coming.clear)

    async def keep(self, ticket: Ticket, partition: int, changed: Mapping[str, bytes | None]) -> None:
        """Write ``changed`` (None: delete) in this order; the ticket is held until the changelog has all of it."""
        if not changed:
            return
        self.app.watch.check_awake()
        ticket.hold()
        topic, producer = self.changelog_topic_name, self.app.producer
        sent = []
        for key, value in changed.items():
            self._coming[key] = ticket, value
            sent.append(await producer.send(topic, key.encode(), value, partition, None, None))
        asyncio.gather(*sent).add_done_callback(lambda done: self._kept(done, ticket, partition, changed))

    def value(self, partition: int, key: str) -> bytes | None:
        """What was last written under ``key``, at once."""
        return self._coming[key][1] if key in self._coming else self.stored(partition, key)

    def stored(self, partition: int, key: str) -> bytes | None:
        """What the changelog has under ``key``; so do ``under`` and ``heads`` tell."""
        value: bytes | None = self.data._db_for_partition(partition).get(key.encode())
        return value

    def under(self, partition: int, prefix: str) -> Iterator[tuple[str, bytes]]:
        """The keys that begin with ``prefix``, in their order."""
        found = self._at(partition, prefix.encode())
        while found.valid() and (key := found.key()).startswith(prefix.encode()):
            yield key.decode(errors="replace"), found.value()
            found.next()

    def heads(self, partition: int) -> Iterator[tuple[str, bytes]]:
        """The keys without a slash; what lies under them is jumped over."""
        found = self._at(partition, b"")
        while found.valid():
            key = found.key()
            name, slash, _ = key.partition(b"/")
            if slash:
                found.seek(name + b"0")  # the character after the slash
                continue
            if key != self.data.offset_key:
                yield key.decode(errors="replace"), found.value()
            found.next()

    def _at(self, partition: int, key: bytes) -> Any:
        found = self.data._db_for_partition(partition).iter()
        found.seek(key)
        return found

    def _kept(self, done: Any, ticket: Ticket, partition: int, changed: Mapping[str, bytes | None]) -> None:
        if done.cancelled():
            return
        if (error := done.exception()) is not None:
            end(f"{self.changelog_topic_name} did not take a change ({error}); look at the brokers, then start again")
        if ticket.valid:
            batch = rocksdict.WriteBatch(raw_mode=True)
            for key, value in changed.items():
                if value is None:
                    batch.delete(key.encode())
                else:
                    batch.put(key.encode(), value)
                if self._coming.get(key, (None,))[0] is ticket:
                    del self._coming[key]
            batch.put(self.data.offset_key, str(max(record.offset for record in done.result())).encode())
            self.data._db_for_partition(partition).write(batch)
        ticket.release()
