"""The worker's application: its tables, its agents, and how it runs."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import faust

from esper.errors import LogError, WorkerFailed
from esper.events.topics import ASSETS, DEADLETTER, PARTITIONS, RUNS, SIGNALS
from streams.agents.alerts import Alerts
from streams.agents.assets import Assets
from streams.agents.decisions import Decisions
from streams.agents.runs import Runs
from streams.host import safe, tables
from streams.host.brokers import Brokers, quieten
from streams.host.records import Records, in_thread
from streams.host.security import credentials
from streams.serving.served import WorkerOptions
from streams.serving.web import Web
from streams.views import generations
from streams.views.generations import Generation

logger = logging.getLogger("esper.worker")
FOLLOWING = 2.0
"""Seconds between two looks at the brokers and at which generation is live."""


class Views(safe.SafeApp):
    """The views of one generation. ``switched`` is set when another has become the live one."""

    def __init__(self, generation: Generation, place: WorkerOptions, *, building: bool = False) -> None:
        log = generation.log
        super().__init__(
            generation.app,
            **safe.options(
                log.address.servers,
                credentials(log.cluster.settings),
                place.member,
                place.url,
                place.data / generation.app,
                PARTITIONS,
            ),
        )
        self.generation, self.place = generation, place
        self.switched = False
        self.brokers = Brokers(log, place.name)
        self.runs_table, self.assets_table, self.alerts_table = (tables.Pieces(self, t) for t in generations.TABLES)
        records = Records(log, f"worker/{place.name}")
        self.decisions = Decisions(log)
        self.runs = Runs(self, records, self.runs_table, () if building else (self.decisions,))
        self._host(RUNS, self.runs.run)
        self._host(DEADLETTER, self.runs.redrive)
        self._host(ASSETS, Assets(self, records, self.assets_table).run)
        self._host(SIGNALS, Alerts(self, records, self.alerts_table).run)
        self._web = None if building else Web(self)

    async def on_start(self) -> None:
        """Faust's hook: begin to serve, and to look after the brokers and the live generation."""
        await super().on_start()
        if self._web is not None:
            await self._web.start()
            self.add_future(self._follow())

    async def on_stop(self) -> None:
        """Faust's hook: stop serving first, then the rest."""
        if self._web is not None:
            await self._web.stop()
        await super().on_stop()

    def waits_for(self) -> str:
        """Why this worker is not ready; empty where it is."""
        if self.should_stop:
            return "it is stopping"
        if not self.brokers.answer:
            return self.brokers.away
        if not self.ready:
            return "its tables are being recovered"
        if not self.catching_up.done:
            return f"its views are catching up with the log in {self.catching_up.left} partitions"
        return ""

    def partitions(self) -> list[int]:
        """Those of the run view that this worker has."""
        changelog = self.runs_table.changelog_topic_name
        return sorted(tp.partition for tp in self.assignor.assigned_actives() if tp.topic == changelog)

    def workers(self) -> list[str]:
        """The addresses of all workers, as the group's last assignment has them."""
        return sorted(self.assignor.tables_metadata())

    def owner(self, partition: int) -> str | None:
        """The address of the worker that has the partition."""
        changelog = self.runs_table.changelog_topic_name
        found = self.assignor.tables_metadata().items()
        return next((url for url, topics in found if partition in topics.get(changelog, ())), None)

    def lag(self) -> Iterator[tuple[str, int, int]]:
        """How far each partition of a source is behind."""
        for tp in self.progress.partitions():
            end, done = self.consumer.highwater(tp), self.progress.committable(tp)
            if end is not None and done is not None:
                yield tp.topic, tp.partition, max(end - done, 0)

    def _host(self, topic: str, agent: Any) -> None:
        name = self.generation.log.address.named(topic)
        channel = self.topic(name, key_type=bytes, value_type=bytes, allow_empty=True)
        self.agent(channel, name=topic, concurrency=1)(agent)

    async def _follow(self) -> None:
        """Ask the brokers; end this worker, in good order, when another generation has become the live one."""
        log = self.generation.log
        while not self.should_stop:
            await self.sleep(FOLLOWING)
            if not await in_thread(self.brokers.ask):
                continue
            try:
                number = (await in_thread(generations.live, log)).number
            except LogError as error:
                if await in_thread(self.brokers.ask):  # otherwise that was said
                    logger.warning("which generation is live is not known: %s", error)
                continue
            if number != self.generation.number and not self.should_stop:
                logger.info("generation %d of the views is live now", number)
                self.switched = True
                os.kill(os.getpid(), signal.SIGTERM)
                return


V = TypeVar("V", bound=Views)


def run(make: Callable[[], V]) -> V:
    """Run the application that ``make`` makes until it is told to stop; raises WorkerFailed with what ended it
    otherwise."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)  # first: whatever of Faust asks for its loop keeps the one it gets
    quieten()
    app = make()
    worker = faust.Worker(app, loop=loop, quiet=True, override_logging=False, redirect_stdouts=False)
    worker.spinner = None
    try:
        worker.execute_from_commandline()
    except SystemExit as left:
        if left.code:
            reason = app.crash_reason or worker.crash_reason
            raise WorkerFailed(f"the worker failed ({reason!r}); start it again") from left
    return app
