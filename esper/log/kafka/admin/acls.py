"""The least rights that each kind of user needs on a log's cluster, and setting them.

A trainer alone writes ``esper.runs``, so that no command can be mistaken for a transition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, ResourcePatternType, ResourceType

from esper.errors import LogError
from esper.events.topics import ROLES, TOPICS
from esper.log.kafka.address import READERS, WRITERS
from esper.log.kafka.clients import ANSWER
from esper.log.kafka.connection import KafkaConnection

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


_READING = Right("GROUP", READERS, ("READ",))
_FENCING = Right("TRANSACTIONAL_ID", WRITERS, ("WRITE", "DESCRIBE"), prefix=True)
_VIEWS = (
    Right("TOPIC", VIEWS, ("READ", "WRITE", "CREATE", "DELETE", "DESCRIBE", "DESCRIBE_CONFIGS"), prefix=True),
    Right("GROUP", VIEWS, ("READ", "DELETE"), prefix=True),
)
_BESIDES: dict[str, tuple[Right, ...]] = {
    "trainer": (_FENCING, _READING),
    "worker": (*_VIEWS, _READING),
    "sink": (Right("GROUP", SINK, ("READ",), prefix=True), _READING),
    "operator": (*_VIEWS, _FENCING, _READING),
    "arbiter": (_READING,),
}
"""What each role needs beside the topics' rows."""


def _of_topics(role: str) -> list[Right]:
    needed = ((topic.name, topic.rights.get(role)) for topic in TOPICS.values())
    return [Right("TOPIC", name, (*operations, "DESCRIBE")) for name, operations in needed if operations]


RIGHTS: dict[str, list[Right]] = {role: [*_of_topics(role), *_BESIDES[role]] for role in ROLES}
"""What each role needs."""


def rights(log: KafkaConnection, role: str) -> list[Right]:
    """What a ``role`` needs on this log."""
    return [Right(each.kind, log.address.named(each.name), each.operations, each.prefix) for each in RIGHTS[role]]


def set_rights(log: KafkaConnection, users: Mapping[str, str]) -> int:
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
