"""The agent of ``esper.assets``: the asset view (Urza's)."""

from __future__ import annotations

from typing import Any

from esper.errors import DecodeError
from esper.events.topics import ASSETS
from esper.log.records import event_of
from esper.urza.view import pieces
from streams.host import safe, tables
from streams.host.records import Records


class Assets:
    """Blueprints and kernels in this worker's partitions. A piece that is there stays: repetition changes nothing."""

    def __init__(self, app: safe.SafeApp, records: Records, table: tables.Pieces) -> None:
        self._app, self._records, self._table = app, records, table

    async def run(self, stream: Any) -> None:
        """Keep the pieces of every record on ``stream``; one that cannot be read becomes a dead letter."""
        async for ticket, message in safe.events(self._app, stream):
            entry = await self._records.entry(ASSETS, message)
            try:
                found = pieces(event_of(entry))
            except DecodeError as error:
                await self._records.bury(entry, error)
            else:
                partition = message.partition
                new = {key: value for key, value in found.items() if self._table.value(partition, key) is None}
                await self._table.keep(ticket, partition, new)
            ticket.release()
