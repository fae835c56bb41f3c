"""The agent of ``esper.runs``: the run view (Tamiyo's), and what follows each event of a run."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Protocol

from faust.types import Message

from esper.errors import DecodeError
from esper.events import Event, deadletter, runs
from esper.events.topics import DEADLETTER, RUNS
from esper.log.exclusions import excluded
from esper.log.port import Entry, Position
from esper.log.records import event_of
from esper.tamiyo.run.state import FOLD, RunState
from esper.tamiyo.run.view import Pieces, RunView, unpacked
from streams.host import safe, tables
from streams.host.records import Records, in_thread

LIVE = 128
"""Runs whose folded state is kept in memory; another one is folded again from the log when an event of it comes."""
_LAST = (runs.RunCompleted, runs.RunFailed, runs.RunCancelled)


class Follower(Protocol):
    """Is told of each new event of a run, and of the state after it. ``idle``: no further event is waiting."""

    async def event(self, ticket: safe.Ticket, state: RunState, event: Event) -> None:
        """``event`` is new and ``state`` includes it. Who works on it later holds ``ticket``, and releases it when
        done."""

    async def idle(self) -> None:
        """Everything that has come was told."""


class Runs:
    """The views of the runs in this worker's partitions.

    The table holds pieces of output; the states that they are made from are in memory, and come from the log again
    after a start or a rebalance. What is behind the log is then written, so a worker killed between two pieces of
    one event leaves nothing behind. An event at or before a head's sequence number changes nothing.
    """

    def __init__(
        self, app: safe.SafeApp, records: Records, table: tables.Pieces, followers: Sequence[Follower]
    ) -> None:
        self._app, self._records, self._table, self._followers = app, records, table, followers
        self._views: OrderedDict[str, RunView] = OrderedDict()
        self._lock = asyncio.Lock()  # a run is folded again while its events come
        self._unreadable: list[tuple[Entry, DecodeError]] = []
        self.records = self.events = 0
        app.caches.append(self._views.clear)

    async def run(self, stream: Any) -> None:
        """The agent of ``esper.runs``."""
        queue = stream.channel.queue
        async for ticket, message in safe.events(self._app, stream):
            self.records += 1
            async with self._lock:
                await self._take(ticket, message)
                if queue.empty():
                    for follower in self._followers:
                        await follower.idle()
            ticket.release()

    async def redrive(self, stream: Any) -> None:
        """The agent of ``esper.deadletter``: a run whose dead letter is resolved is folded again."""
        async for ticket, message in safe.events(self._app, stream):
            run_id = await self._resolved(message)
            if run_id is not None:
                async with self._lock:
                    self._views.pop(run_id, None)
                    self._records.log.registry.ask_again()
                    await self._behind(ticket, message.partition, run_id, None)
            ticket.release()

    async def _take(self, ticket: safe.Ticket, message: Message) -> None:
        entry = await self._records.entry(RUNS, message)
        run_id, partition = entry.record.key, message.partition
        foreign = entry.error is not None and entry.record.sequence is None and not self._known(partition, run_id)
        if foreign or not run_id or "/" in run_id:
            error = entry.error or f"{run_id!r} names no run"
            await self._records.bury(entry, DecodeError(error))
            return
        view = self._views.get(run_id)
        if view is None:
            view = await self._loaded(ticket, entry, partition)
        self._views.move_to_end(run_id)
        before = view.state.sequence
        event, changed = view.take(entry)
        for unreadable in self._unreadable:
            await self._records.bury(*unreadable)
        self._unreadable.clear()
        if view.trouble is not None and event is None and changed:
            # What is missing here may be there: Faust can lose what it had fetched before a rebalance.
            view = self._views[run_id] = await self._behind(ticket, partition, run_id, None)
            changed = {}
        await self._table.keep(ticket, partition, self._news(partition, run_id, before, event, changed))
        if event is not None:
            self.events += 1
            for follower in self._followers:
                await follower.event(ticket, view.state, event)
            if isinstance(event.content, _LAST):
                del self._views[run_id]

    async def _loaded(self, ticket: safe.Ticket, entry: Entry, partition: int) -> RunView:
        """The view before ``entry``, from the log."""
        run_id = entry.record.key
        if entry.record.sequence == 1 and not self._known(partition, run_id):
            view = RunView(run_id, self._note)
        else:
            view = await self._behind(ticket, partition, run_id, entry.position)
        self._views[run_id] = view
        while len(self._views) > LIVE:
            self._views.popitem(last=False)
        return view

    async def _behind(self, ticket: safe.Ticket, partition: int, run_id: str, before: Position | None) -> RunView:
        """Fold the run again and write what the table lacks: up to ``before`` what its head has not reached, or up to
        the run's end every piece that is another."""
        known = 0 if before is None or self._by_another_fold(partition, run_id) else self._sequence(partition, run_id)
        view, missed = await in_thread(self._folded, run_id, before, known)
        await self._table.keep(ticket, partition, self._news(partition, run_id, 0, None, missed))
        return view

    def _folded(self, run_id: str, before: Position | None, known: int) -> tuple[RunView, Pieces]:
        log = self._records.log
        view, missed = RunView(run_id, self._note, excluded(log, run_id)), Pieces()
        for entry in log.read(RUNS, key=run_id):
            if before is not None and entry.position.offset >= before.offset:
                break
            event, changed = view.take(entry)
            if event is None or (event.envelope.sequence or 0) > known:
                missed |= changed
        self._unreadable.clear()  # they were told of when they came
        if run_id in missed:
            missed[run_id] = missed.pop(run_id)  # the head last
        return view, missed

    def _news(self, partition: int, run_id: str, before: int, event: Event | None, changed: Pieces) -> Pieces:
        """What of ``changed`` the table does not have; an event that it knows brings none."""
        if event is not None and self._sequence(partition, run_id) > before:
            return {}
        stored = {key: self._table.value(partition, key) for key in changed} if event is None else {}
        return {key: value for key, value in changed.items() if event is not None or stored[key] != value}

    def _known(self, partition: int, run_id: str) -> bool:
        return run_id in self._views or self._table.value(partition, run_id) is not None

    def _sequence(self, partition: int, run_id: str) -> int:
        head = unpacked(self._table.value(partition, run_id))
        return int(head["sequence"]) if head is not None else 0

    def _by_another_fold(self, partition: int, run_id: str) -> bool:
        head = unpacked(self._table.value(partition, run_id))
        return head is not None and head.get("fold") != FOLD

    def _note(self, entry: Entry, error: DecodeError) -> None:
        self._unreadable.append((entry, error))

    async def _resolved(self, message: Message) -> str | None:
        """The run whose dead letter the message resolves."""
        entry = await self._records.entry(DEADLETTER, message)
        try:
            content = event_of(entry).content
        except DecodeError:
            return None
        resolved = isinstance(content, deadletter.DeadLetterResolved) and content.source.startswith(f"{RUNS}/")
        return entry.record.key if resolved else None
