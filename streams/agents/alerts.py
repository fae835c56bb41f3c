"""The agent of ``esper.signals``: the alerts that workers raised about runs, and which of them are over.

(Those of a run's own trainer are part of the run view.)
"""

from __future__ import annotations

from typing import Any

from esper.errors import DecodeError
from esper.events import Event, signals
from esper.events.topics import SIGNALS
from esper.log.port import Entry
from esper.log.records import event_of
from esper.tamiyo.run.view import alert_pieces, unpacked
from streams.host import safe, tables
from streams.host.records import Records


class Alerts:
    """Alerts by run, under ``RUN/alert/ID`` with ID that of AlertRaised."""

    def __init__(self, app: safe.SafeApp, records: Records, table: tables.Pieces) -> None:
        self._app, self._records, self._table = app, records, table

    async def run(self, stream: Any) -> None:
        """Keep the alerts of every record on ``stream``; one that cannot be read becomes a dead letter."""
        async for ticket, message in safe.events(self._app, stream):
            entry = await self._records.entry(SIGNALS, message)
            try:
                await self._take(ticket, message.partition, entry, event_of(entry))
            except DecodeError as error:
                await self._records.bury(entry, error)
            ticket.release()

    async def _take(self, ticket: safe.Ticket, partition: int, entry: Entry, event: Event) -> None:
        content = event.content
        if not isinstance(content, signals.AlertRaised | signals.AlertResolved):
            return
        identity = content.alert if isinstance(content, signals.AlertResolved) else event.envelope.id
        key = f"{entry.record.key}/alert/{identity}"
        known = self._table.value(partition, key)
        new = alert_pieces(key, unpacked(known), event)
        await self._table.keep(ticket, partition, {k: v for k, v in new.items() if v != known})
