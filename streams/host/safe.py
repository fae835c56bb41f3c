"""Faust, made to keep our promises. Each remedy is here, and nowhere else; the agents share them.

At least once, with views that know what they hold, is exact. It takes:

- Aborted records stay unseen: the consumer reads committed ones (``_Thread``), which Faust does only where it writes
  transactions itself, and that mode loses records.
- An event counts as done when all that it changed is in the changelog, and offsets are committed up to the first
  that is not (``OffsetsInFlight``). Faust acknowledges an event whose agent raised, commits one that it skipped in a
  rebalance, does not look whether a changelog took its record, and commits one transaction per interval at most.
- An agent that raises ends the process, from outside of the agent (``CrashingSupervisor``, ``Watch``): stopped from
  within, it would wait for itself. Whoever runs it starts it again, and the event comes again.
- A table is ``streams.host.tables``': its local copy follows its changelog, nothing that lies in a changelog can raise,
  and a key lies in the partition that its run's events lie in.
- Sources are read again only when a rebalance is over (``_Consumer.open``): what Faust fetches earlier it throws away
  when the flow goes on, and may then drop it where it comes again, as known.
- A recovery that hangs, a stop that hangs and a process that slept longer than its session end the process (``Watch``).
- A member is known by its name, so one that is killed and started again has its partitions at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import aiokafka  # type: ignore[import-untyped]
import faust
from faust.auth import Credentials
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, Message
from mode.supervisors import CrashingSupervisor
from yarl import URL

from streams.host.catching import CatchingUp

logger = logging.getLogger("esper.worker")

SESSION, HEARTBEAT = 10.0, 3.0
"""Seconds after which the group gives a silent member up, and between two signs of life."""
RECOVERY = 120.0
"""Seconds that a worker may take from a rebalance until its tables are recovered."""
STOPPING = 20.0
"""Seconds that a stop may take."""
DRAINING = 15.0
"""Seconds to finish what was begun: a run that is folded again has some thousand events a second."""
COMMIT = 1.0
"""Seconds between two commits of offsets."""
IN_FLIGHT = 500
"""Events at once whose changes the changelogs have not taken yet."""
LARGEST = 9 << 20
"""Bytes of one request to a broker."""
LOOKING = 0.1
"""Seconds between two looks at whether a worker has caught up, where nothing comes."""


def options(
    servers: str, credentials: Credentials | None, member: str, url: str, folder: Path, partitions: int
) -> dict[str, Any]:
    """Faust's settings. Its own choices in brackets, where they would harm."""
    return {
        "broker": [URL(f"kafka://{server}") for server in servers.split(",")],
        "broker_credentials": credentials,
        "broker_session_timeout": SESSION,
        "broker_heartbeat_interval": HEARTBEAT,
        "broker_rebalance_timeout": 30.0,
        "broker_request_timeout": 30.0,
        "broker_commit_interval": COMMIT,
        "consumer_group_instance_id": member,
        "consumer_auto_offset_reset": "earliest",
        "consumer_max_fetch_size": 4 << 20,
        "producer_request_timeout": 60.0,  # (20 minutes)
        "producer_max_request_size": LARGEST,
        "producer_max_batch_size": 256 << 10,
        "processing_guarantee": "at_least_once",
        "agent_supervisor": CrashingSupervisor,  # (starts the agent again, one event later)
        "stream_wait_empty": False,  # (waits for events that an agent which raised will never finish)
        "stream_buffer_maxsize": IN_FLIGHT,
        "store": "rocksdb://",
        "table_standby_replicas": 0,  # (1: records of unknown partitions go into whatever table came before)
        "topic_allow_declare": False,  # (makes topics with one copy and 8 partitions)
        "topic_partitions": partitions,
        "topic_disable_leader": True,
        "autodiscover": False,
        "web_enabled": False,  # (serves every table to everybody)
        "canonical_url": url,
        "datadir": folder,
        "worker_redirect_stdouts": False,
        "value_serializer": "raw",  # (JSON, and what is none is acknowledged unseen)
        "key_serializer": "raw",
    }


class Ticket:
    """An event on its way: it is done when all who hold it have released it."""

    __slots__ = ("_holders", "_progress", "offset", "valid")

    def __init__(self, progress: _Partition, offset: int) -> None:
        self._progress, self.offset = progress, offset
        self._holders, self.valid = 1, True

    def hold(self) -> None:
        """One more has to release it before the event is done."""
        self._holders += 1

    def release(self) -> None:
        """One who held it is done with the event; after the last one its offset may be committed."""
        self._holders -= 1
        if self._holders == 0:
            self._progress.done(self.offset)


class _Partition:
    """The tickets of one partition that are not done, in their order, and where it goes on after them."""

    def __init__(self, room: Callable[[], None]) -> None:
        self.open: OrderedDict[int, Ticket] = OrderedDict()
        self.next: int | None = None
        self._room = room

    def begin(self, offset: int) -> Ticket:
        ticket = self.open[offset] = Ticket(self, offset)
        self.next = offset + 1
        return ticket

    def done(self, offset: int) -> None:
        self.open.pop(offset, None)
        self._room()

    def committable(self) -> int | None:
        """The offset up to which everything is done."""
        return next(iter(self.open), self.next)


class OffsetsInFlight:
    """What is being worked on, by partition. Holes in the offsets (markers, aborted records) do not matter."""

    def __init__(self) -> None:
        self._partitions: dict[TP, _Partition] = {}
        self._changed = asyncio.Event()

    def begin(self, message: Message) -> Ticket:
        """The ticket of ``message``, held once; messages of a partition come in order."""
        partition = self._partitions.get(message.tp)
        if partition is None:
            partition = self._partitions[message.tp] = _Partition(self._changed.set)
        return partition.begin(message.offset)

    def partitions(self) -> Iterable[TP]:
        """The partitions of which anything has begun since the last ``forget``."""
        return list(self._partitions)

    def committable(self, tp: TP) -> int | None:
        """The offset before which everything of the partition is done; None if nothing of it has begun."""
        partition = self._partitions.get(tp)
        return None if partition is None else partition.committable()

    def in_flight(self) -> int:
        """How many events are begun and not done."""
        return sum(len(partition.open) for partition in self._partitions.values())

    async def below(self, limit: int, timeout: float = SESSION) -> bool:
        """Wait until fewer than ``limit`` events are in flight; False if that takes too long."""
        deadline = time.monotonic() + timeout
        while self.in_flight() >= limit:
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), max(deadline - time.monotonic(), 0.001))
            except TimeoutError:
                return False
        return True

    def forget(self) -> None:
        """Partitions go elsewhere: what was begun here counts no more."""
        for partition in self._partitions.values():
            for ticket in partition.open.values():
                ticket.valid = False
        self._partitions.clear()
        self._changed.set()


class Watch:
    """A thread that ends the process where nothing else would. Ending at once is safe at any moment: what was not
    committed is done again."""

    def __init__(self, app: SafeApp) -> None:
        self._app = app
        self._beat = self._ready_since = time.monotonic()
        self._stopping_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begin to watch; a watch is started once."""
        self._beat = self._ready_since = time.monotonic()
        self._thread.start()

    def check_awake(self) -> None:
        """End a process that slept so long that others may have its partitions and write there: its session, less
        the time since its last sign of life."""
        slept = time.monotonic() - self._beat
        if slept > SESSION - HEARTBEAT:
            end(f"this worker did not run for {slept:.0f} s, so others have taken over; start it again")

    def _run(self) -> None:
        while True:
            time.sleep(0.25)
            self.check_awake()
            self._beat = now = time.monotonic()
            if self._app.should_stop:
                self._stopping_since = self._stopping_since or now
                if now - self._stopping_since > STOPPING:
                    end(f"stopping took longer than {STOPPING:.0f} s; what was not committed will be done again")
            elif self._app.ready:
                self._ready_since = now
            elif now - self._ready_since > RECOVERY:
                end(
                    f"the tables were not recovered within {RECOVERY:.0f} s; look at brokers and changelogs, or fill "
                    f"new ones with `esper views rebuild`"
                )


def end(reason: str) -> None:
    """End this process now."""
    logger.critical("%s", reason)
    logging.shutdown()
    os._exit(1)


class _Thread(driver.AIOKafkaConsumerThread):
    def _create_worker_consumer(self, transport: driver.Transport) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"
        return consumer


class _Consumer(driver.Consumer):
    app: SafeApp

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.open = False  # for sources: not before a rebalance is over
        self._read_offset = _Unread()

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:
        wanted = active_partitions or set()
        if not self.open:
            wanted = {tp for tp in wanted if self._is_changelog_tp(tp)}
        if not wanted:
            await asyncio.sleep(0.02)
            return {}
        if self.app.catching_up.done:
            return await super()._getmany(wanted, timeout)
        records = await super()._getmany(wanted, min(timeout, LOOKING))
        self.app.catching_up.look(records, self._place)
        return records

    def sources(self) -> Iterator[TP]:
        """The partitions that this worker has events from."""
        return (tp for tp in self.assignment() if not self._is_changelog_tp(tp))

    def _place(self, tp: TP) -> tuple[int, int] | None:
        """Where reading is, and where what is committed ends, as the last answer of its broker has it."""
        assignment = self._thread._ensure_consumer()._subscription.subscription.assignment
        if assignment is None or tp not in assignment.tps:
            return None
        state = assignment.state_value(tp)
        return (state.position, state.lso) if state.has_valid_position and state.lso is not None else None

    def _new_consumer_thread(self) -> driver.AIOKafkaConsumerThread:
        return _Thread(self, loop=self.loop, beacon=self.beacon)

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        return (tp for tp in self.app.progress.partitions() if topics is None or tp in topics or tp.topic in topics)

    def _new_offset(self, tp: TP) -> int | None:
        return self.app.progress.committable(tp)


class _Unread(dict[TP, Any]):
    """What was read of each partition, forgotten at once: Faust would drop what comes before that place, also where
    it went back itself. (And holes, which it notes with it, are nothing to ``OffsetsInFlight``.)"""

    def __getitem__(self, tp: TP) -> None:
        return None


class _Producer(driver.Producer):
    def _settings_extra(self) -> Mapping[str, Any]:
        return {"acks": "all", "enable_idempotence": True}


class _Transport(driver.Transport):
    Consumer = _Consumer
    Producer = _Producer


class SafeApp(faust.App):
    """A Faust application with the remedies. ``caches`` are told when partitions may go elsewhere."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self.progress = OffsetsInFlight()
        self.catching_up = CatchingUp(self.progress.committable)
        self.watch = Watch(self)
        self.caches: list[Callable[[], None]] = []
        self.rebalances = 0
        self.transport = _Transport(self.conf.broker_consumer, self)

    @property
    def recovered(self) -> bool:
        """Whether the tables were ever recovered. (The watch's thread may ask; what Faust makes when it is asked for
        would belong to that thread's loop, which nobody runs.)"""
        recovery = self.tables._recovery  # type: ignore[attr-defined]
        return recovery is not None and recovery.completed.is_set()

    @property
    def ready(self) -> bool:
        """Whether all tables are recovered and events are taken."""
        return self.recovered and not self.rebalancing and not self.should_stop

    async def on_start(self) -> None:
        """Faust's hook: begin to watch."""
        await super().on_start()
        self.watch.start()

    def on_rebalance_start(self) -> None:
        """Faust's hook: sources are not read until the rebalance is over."""
        self.consumer.open = False  # type: ignore[attr-defined]
        super().on_rebalance_start()

    def on_rebalance_end(self) -> None:
        """Faust's hook: sources are read again, and the views have to catch up with them."""
        super().on_rebalance_end()
        self.catching_up.begin(self.consumer.sources())  # type: ignore[attr-defined]
        self.consumer.open = True  # type: ignore[attr-defined]

    async def drained(self) -> None:
        """Take nothing new, finish what was begun, commit, and forget."""
        if not self.crashed and not await self.progress.below(1, DRAINING):
            end(f"{self.progress.in_flight()} events could not be finished in time; they will be done again")
        await self.consumer.commit()
        self.progress.forget()
        for forget in self.caches:
            forget()

    async def _on_partitions_revoked(self, revoked: set[TP]) -> None:
        if not self.should_stop:
            self.rebalances += 1
            self.consumer.stop_flow()
            self.flow_control.suspend()
            self.flow_control.clear()
            await self.drained()
        await super()._on_partitions_revoked(revoked)

    async def _stop_consumer(self) -> None:
        if self._consumer is not None and self.recovered:
            self._consumer.stop_flow()
            self.flow_control.suspend()
            self.flow_control.clear()
            await self.drained()
        await super()._stop_consumer()


async def events(app: SafeApp, stream: Any) -> AsyncIterator[tuple[Ticket, Message]]:
    """The records of an agent's stream with their tickets, which the agent releases when it has written all."""
    async for event in stream.noack().events():
        app.watch.check_awake()
        await app.progress.below(IN_FLIGHT, RECOVERY)
        yield app.progress.begin(event.message), event.message
