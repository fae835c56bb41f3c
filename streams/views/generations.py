"""Generations of the views: each has its own consumer group, tables and changelogs; a record says which one is live.

A new generation is filled beside the live one (``esper views rebuild``). When that has caught up, the record changes
and the workers follow.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import NewTopic

from esper.errors import LogError
from esper.events.topics import PARTITIONS
from esper.log.kafka.log import KafkaLog

POINTER, KEY = "esper-views", "live"
"""The topic whose newest record names the live generation; also what names of groups and changelogs begin with."""
TABLES = ("runs", "assets", "alerts")
ANSWER = 20.0
"""Seconds for one answer of the brokers."""
LEAVING = 30.0
"""Seconds to wait until the group of a generation to remove is empty; a killed member counts for its session."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation of the views of a log."""

    log: KafkaLog
    number: int

    @property
    def app(self) -> str:
        """The name of its Faust application: its group, and what its changelogs begin with."""
        return self.log.address.named(f"{POINTER}-{self.number}")

    def changelog(self, table: str) -> str:
        """The topic that holds the generation's ``table``, one of TABLES."""
        return f"{self.app}-{table}-changelog"


def live(log: KafkaLog) -> Generation:
    """The live generation; 1 where none was ever named."""
    name = log.address.named(POINTER)
    if partitions(log, [name]).get(name) is None:
        return Generation(log, 1)
    end = log.reader.ends(POINTER, [0])[0]
    number = 1
    for message in log.reader.messages(POINTER, 0, max(end - 100, 0), end):
        number = _number(message.value()) or number
    return Generation(log, number)


def make_live(generation: Generation) -> None:
    """From now on ``generation`` is live."""
    log = generation.log
    name = log.address.named(POINTER)
    _make(log, {name: 1})
    outcome: list[KafkaError | None] = []
    producer = log.cluster.producer(linger_ms=0)
    value = json.dumps({"generation": generation.number}).encode()
    producer.produce(name, value, KEY.encode(), on_delivery=lambda error, _: outcome.append(error))
    producer.flush(30)
    if not outcome or outcome[0] is not None:
        raise LogError(f"{log.address.servers}: {name} did not take the switch ({outcome}); try again")


def prepare(generation: Generation) -> None:
    """Make the generation's changelogs, or check those that are there; raises LogError where partitions differ."""
    wanted = {generation.changelog(table): PARTITIONS for table in TABLES}
    for name, count in partitions(generation.log, list(wanted)).items():
        if count != wanted[name]:
            raise LogError(
                f"changelog {name} has {count} partitions, but needs {wanted[name]}, as many as its source; fill a new "
                f"generation with `esper views rebuild`, or delete the topic"
            )
    _make(generation.log, wanted)


def remove(generation: Generation) -> None:
    """Forget a generation that nobody uses any more: where its group was, from which a rebuild would go on, and its
    changelogs. Raises LogError if it is in use."""
    _remove_group(generation)
    admin = generation.log.cluster.admin
    there = partitions(generation.log, [generation.changelog(table) for table in TABLES])
    for future in admin.delete_topics(list(there)).values() if there else ():
        generation.log.cluster.result(future, "deleting old changelogs")


def _remove_group(generation: Generation) -> None:
    cluster, group = generation.log.cluster, generation.app
    deadline = time.monotonic() + LEAVING
    while True:
        try:
            cluster.admin.delete_consumer_groups([group], request_timeout=ANSWER)[group].result()
        except KafkaException as error:
            code = error.args[0].code()
            if code == KafkaError.NON_EMPTY_GROUP:
                if time.monotonic() < deadline:
                    time.sleep(0.5)
                    continue
                raise LogError(f"{group} is in use; let the other `esper views rebuild` end, then try again") from error
            if code != KafkaError.GROUP_ID_NOT_FOUND:
                raise cluster.error(f"deleting the group {group}", error) from error
        return


def _make(log: KafkaLog, wanted: dict[str, int]) -> None:
    """Make the topics that are missing, compacted, and wait until they can be written."""
    admin = log.cluster.admin
    missing = wanted.keys() - partitions(log, list(wanted)).keys()
    brokers = len(log.cluster.result(admin.describe_cluster(), "asking for the brokers").nodes)
    copies = min(3, brokers)
    config = {"cleanup.policy": "compact"} | ({"min.insync.replicas": "2"} if copies == 3 else {})
    new = [NewTopic(name, wanted[name], copies, config=config) for name in sorted(missing)]
    for name, future in admin.create_topics(new, request_timeout=ANSWER).items() if new else ():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise log.cluster.error(f"making topic {name}", error) from error
    deadline = time.monotonic() + 30
    while len(partitions(log, list(wanted))) < len(wanted):
        if time.monotonic() > deadline:
            raise LogError(f"{log.address.servers}: new changelogs have no leaders yet; look at the brokers")
        time.sleep(0.05)


def partitions(log: KafkaLog, names: list[str]) -> dict[str, int]:
    """How many partitions each topic has; topics that are not there, or not all of whose partitions are led, are not
    in it."""
    found = {}
    for name, future in log.cluster.admin.describe_topics(TopicCollection(names), request_timeout=ANSWER).items():
        try:
            parts = future.result().partitions
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise log.cluster.error(f"asking for {name}", error) from error
            continue
        if all(part.leader is not None and part.leader.id >= 0 for part in parts):
            found[name] = len(parts)
    return found


def _number(value: bytes | None) -> int | None:
    try:
        number = json.loads(value or b"")["generation"]
    except (ValueError, KeyError, TypeError):
        return None
    return number if isinstance(number, int) else None
