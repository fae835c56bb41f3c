"""``esper worker`` with one remedy of ``streams.host.safe`` taken away, named first: for tests of what it is for."""

from __future__ import annotations

import sys
from collections import defaultdict
from typing import Any

import faust
from faust.tables.base import Collection
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from esper.cli.main import main
from streams import app
from streams.agents import runs
from streams.host import safe, tables
from streams.views import generations


def read_committed() -> None:
    safe._Consumer._new_consumer_thread = driver.Consumer._new_consumer_thread


def gate() -> None:
    """Sources are fetched as soon as Faust will, and what comes again is dropped."""
    begin = safe._Consumer.__init__

    def opened(self: Any, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **options)
        self.open, self._read_offset = True, defaultdict(lambda: None)

    safe._Consumer.__init__ = opened
    safe.SafeApp.on_rebalance_start = faust.App.on_rebalance_start


def acknowledging() -> None:
    """Faust acknowledges what an agent took, and starts an agent that raised again."""

    async def events(app: Any, stream: Any) -> Any:
        async for event in stream.events():
            yield safe.OffsetsInFlight().begin(event.message), event.message

    safe.events = events
    for name in ("_new_offset", "_filter_tps_with_pending_acks"):
        setattr(safe._Consumer, name, getattr(driver.Consumer, name))
    options = safe.options
    safe.options = lambda *given: options(*given) | {"agent_supervisor": "mode.OneForOneSupervisor"}


def progress() -> None:
    """Faust's own idea of which offsets may be committed."""
    events = safe.events

    async def acknowledged(app: Any, stream: Any) -> Any:
        async for event in stream.noack().events():
            ticket = app.progress.begin(event.message)
            yield ticket, event.message
            await stream.ack(event)

    assert events is not acknowledged
    safe.events = acknowledged
    for name in ("_new_offset", "_filter_tps_with_pending_acks"):
        setattr(safe._Consumer, name, getattr(driver.Consumer, name))


def sequence() -> None:
    """A view that takes whatever comes as new."""
    runs.Runs._sequence = lambda self, partition, run_id: 0


def changelog_first() -> None:
    """Faust's order: the local table at once, the changelog when it may."""

    async def keep(self: Any, ticket: Any, partition: int, changed: Any) -> None:
        for key, value in changed.items():
            self._coming[key] = ticket, value
            self.send_changelog(partition, key.encode(), value, "raw", "raw")
            database = self.data._db_for_partition(partition)
            database.delete(key.encode()) if value is None else database.put(key.encode(), value)

    tables.Pieces.keep = keep


def member() -> None:
    """No name in the group, and Faust's session of a minute."""
    options = safe.options
    safe.options = lambda *given: (
        options(*given)
        | {
            "consumer_group_instance_id": None,
            "broker_session_timeout": 60.0,
            "broker_request_timeout": 90.0,
        }
    )


def patience() -> None:
    """The remedies are all there; only a recovery may not take long."""
    safe.RECOVERY = 12.0


def json_tables() -> None:
    """Faust's codec, which raises."""
    Collection._serializer_from_type = lambda self, kind: "json"


def awake() -> None:
    """A process may sleep as long as it likes."""
    safe.Watch.check_awake = lambda self: None


def check() -> None:
    """Changelogs as they are."""
    app.generations.prepare = lambda generation: None
    generations.prepare = lambda generation: None


def routing() -> None:
    """Faust's router: a key lies where its own hash says."""
    keep = tables.Pieces.keep

    async def routed(self: Any, ticket: Any, partition: int, changed: Any) -> None:
        for key, value in changed.items():
            place: TP = self.app.producer.key_partition(self.changelog_topic_name, key.encode())
            await keep(self, ticket, place.partition, {key: value})

    tables.Pieces.keep = routed


if __name__ == "__main__":
    without = sys.argv.pop(1)
    if without != "nothing":
        globals()[without]()
    sys.exit(main())
