"""Which runs a worker keeps in memory."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from esper.events.topics import RUNS
from esper.log.port import Entry, Position
from esper.tamiyo.run.view import packed
from streams.agents import runs
from tests.support.services.workers import made_run, records


class Table(dict[str, Any]):
    def value(self, partition: int, key: str) -> bytes | None:
        return self.get(key)

    async def keep(self, ticket: Any, partition: int, changed: dict[str, Any]) -> None:
        self.update(changed)


class Log:
    """What was written so far, and how often it was read."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.log, self.reads = self, 0

    async def entry(self, topic: str, message: Any) -> Entry:
        return self.entries[-1]

    def read(self, topic: str, key: str) -> list[Entry]:
        self.reads += 1
        return [entry for entry in self.entries if entry.record.key == key]


def test_a_run_whose_events_come_is_not_folded_again_for_those_that_came_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs, "LIVE", 2)
    log: Any = Log()
    app: Any = SimpleNamespace(caches=[])
    agent = runs.Runs(app, log, Table(), ())  # type: ignore[arg-type]
    ours = records("ours", made_run(0, 5, end=False))

    async def take(record: Any) -> None:
        log.entries.append(Entry(Position(RUNS, 0, len(log.entries)), datetime.now(UTC), record, None))
        await agent._take(None, SimpleNamespace(partition=0))  # type: ignore[arg-type]

    async def live() -> None:
        await take(ours[0])
        for number, record in enumerate(ours[1:9]):
            await take(records(f"other-{number}", made_run(number, 1, end=False))[0])
            await take(record)

    asyncio.run(live())
    assert log.reads == 0


def test_a_view_that_another_version_of_the_fold_made_is_made_anew_when_its_run_goes_on() -> None:
    log: Any = Log()
    app: Any = SimpleNamespace(caches=[])
    table = Table()
    ours = records("ours", made_run(0, 5, end=False))

    async def take(agent: runs.Runs, *new: Any) -> None:
        for record in new:
            log.entries.append(Entry(Position(RUNS, 0, len(log.entries)), datetime.now(UTC), record, None))
            await agent._take(None, SimpleNamespace(partition=0))  # type: ignore[arg-type]

    def agent() -> runs.Runs:
        return runs.Runs(app, log, table, ())  # type: ignore[arg-type]

    asyncio.run(take(agent(), *ours[:-1]))
    whole = dict(table)
    for key, value in whole.items():
        older = {**json.loads(value), "digest": "of another fold"}
        del older["fold"]
        table[key] = packed(older)
    asyncio.run(take(agent(), ours[-1]))
    assert whole.keys() <= table.keys()
    assert all(b"of another fold" not in value for value in table.values())
