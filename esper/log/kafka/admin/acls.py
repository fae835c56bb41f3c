"""The least rights that each kind of user needs on a log's cluster, and setting them.

A trainer alone writes ``esper.runs``, so that no command can be mistaken for a transition.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, ResourcePatternType, ResourceType

from esper.errors import LogError
from esper.log.kafka.address import READERS, WRITERS
from esper.log.kafka.admin.topics import INDEX, POLICIES
from esper.log.kafka.clients import ANSWER
from esper.log.port import ASSETS, DEADLETTER, EXCLUSIONS, RUNS, SIGNALS, TELEMETRY

if TYPE_CHECKING:
    from esper.log.kafka.log import KafkaLog

VIEWS, SINK = "esper-views", "esper-sink"
"""What the names of the workers' groups, tables and changelogs begin with, and those of the sinks' groups."""


@dataclass(frozen=True, slots=True)
class Right:
    """What may be done with the resource of this name, or, with ``prefix``, with all whose names begin so."""

    kind: str
    name: str
    operations: tuple[str, ...]
    prefix: bool = False

    def __str__(self) -> str:
        which = f"{self.name}*" if self.prefix else self.name
        return f"{', '.join(self.operations)} on {self.kind.lower().replace('_', ' ')} {which}"


def _topics(operations: Iterable[str], *names: str) -> list[Right]:
    return [Right("TOPIC", name, (*operations, "DESCRIBE")) for name in names]


_READING = Right("GROUP", READERS, ("READ",))
_FENCING = Right("TRANSACTIONAL_ID", WRITERS, ("WRITE", "DESCRIBE"), prefix=True)
_TABLES = [
    Right("TOPIC", VIEWS, ("READ", "WRITE", "CREATE", "DELETE", "DESCRIBE", "DESCRIBE_CONFIGS"), prefix=True),
    Right("GROUP", VIEWS, ("READ", "DELETE"), prefix=True),
]
ROLES: dict[str, list[Right]] = {
    "trainer": [
        *_topics(["READ", "WRITE"], RUNS, ASSETS, INDEX, DEADLETTER),
        *_topics(["READ"], SIGNALS, POLICIES, EXCLUSIONS),
        *_topics(["WRITE"], TELEMETRY),
        _FENCING,
        _READING,
    ],
    "worker": [
        *_topics(["READ"], RUNS, INDEX, POLICIES, EXCLUSIONS),
        *_topics(["READ", "WRITE"], SIGNALS, ASSETS, DEADLETTER),
        *_TABLES,
        _READING,
    ],
    "sink": [
        *_topics(["READ"], TELEMETRY, RUNS, INDEX, ASSETS, SIGNALS, EXCLUSIONS),
        *_topics(["READ", "WRITE"], DEADLETTER),
        Right("GROUP", SINK, ("READ",), prefix=True),
        _READING,
    ],
    "operator": [
        *_topics(["READ"], RUNS, INDEX, ASSETS, TELEMETRY, EXCLUSIONS),
        *_topics(["READ", "WRITE"], SIGNALS, POLICIES, DEADLETTER),
        *_TABLES,
        _FENCING,
        _READING,
    ],
    "arbiter": [
        *_topics(["READ"], RUNS, INDEX),
        *_topics(["READ", "WRITE"], DEADLETTER, EXCLUSIONS),
        _READING,
    ],
}
"""Kinds of users: who trains; who keeps the views; who fills the analytics; who gives commands and mends; and who may
take records out of runs."""


def rights(log: KafkaLog, role: str) -> list[Right]:
    """What a ``role`` needs on this log."""
    return [Right(each.kind, log.address.named(each.name), each.operations, each.prefix) for each in ROLES[role]]


def set_rights(log: KafkaLog, users: Mapping[str, str]) -> int:
    """Give each role's user what it needs; how many rules that are. What is there already stays."""
    bindings = [
        AclBinding(
            ResourceType[right.kind],
            right.name,
            ResourcePatternType.PREFIXED if right.prefix else ResourcePatternType.LITERAL,
            f"User:{user}",
            "*",
            AclOperation[operation],
            AclPermissionType.ALLOW,
        )
        for role, user in users.items()
        for right in rights(log, role)
        for operation in right.operations
    ]
    for future in log.cluster.admin.create_acls(bindings, request_timeout=ANSWER).values():
        try:
            future.result(timeout=ANSWER + 1)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.SECURITY_DISABLED:
                raise LogError(
                    f"{log.address.servers}: the brokers check no rights; set authorizer.class.name="
                    f"org.apache.kafka.metadata.authorizer.StandardAuthorizer there, then try again"
                ) from error
            raise log.cluster.error("setting rights", error) from error
    return len(bindings)
