"""Ids of our schemas, and schemas by their ids, each asked of the schema registry once.

The subject of a schema is its topic's real name and its own full name (TopicRecordNameStrategy), since several record
types share a topic.
"""

from __future__ import annotations

import threading
import time
from functools import cached_property
from typing import TYPE_CHECKING

from esper.connections import RegistrySettings
from esper.errors import DecodeError
from esper.events.encoding.schemas import Schema, schema_from_json

if TYPE_CHECKING:
    from esper.log.kafka.subjects import Subjects

AGAIN = 10.0
"""Seconds after which a schema that the registry did not have is asked for again."""


def subject_of(topic: str, name: str) -> str:
    """The subject of the record type ``name`` on the topic of this real name."""
    return f"{topic}-{name}"


class Registry:
    """The registry that ``settings`` names. Threads may share it.

    Every method raises LogError where the registry does not answer or refuses.
    """

    def __init__(self, settings: RegistrySettings) -> None:
        self.settings = settings
        self._ids: dict[tuple[str, str], int] = {}
        self._schemas: dict[int, Schema] = {}
        self._unknown: dict[int, float] = {}
        self._lock = threading.RLock()

    def id_of(self, topic: str, schema: Schema) -> int:
        """The id of ``schema`` on ``topic`` (its real name); a schema that is not there yet is registered."""
        known = self._ids.get((topic, schema.fingerprint))
        if known is None:
            with self._lock:
                known = self._ids[topic, schema.fingerprint] = self._id(subject_of(topic, schema.name), schema)
        return known

    def schema(self, schema_id: int) -> Schema:
        """The schema with this id; raises DecodeError if the registry has none, or none that can be parsed."""
        known = self._schemas.get(schema_id)
        if known is None:
            with self._lock:
                known = self._schemas[schema_id] = self._schema(schema_id)
        return known

    def ask_again(self) -> None:
        """Somebody says that a schema is there now: ask for those that were not."""
        self._unknown.clear()

    def register(self, topic: str, schema: Schema) -> None:
        """Register ``schema`` on ``topic``, whose later versions then have to read all before them."""
        with self._lock:
            self.subjects.protect(subject_of(topic, schema.name))
            self.id_of(topic, schema)

    def close(self) -> None:
        """Let go of the connection; it is made again when needed."""
        with self._lock:
            subjects: Subjects | None = self.__dict__.pop("subjects", None)
            if subjects is not None:
                subjects.close()

    __del__ = close  # a log that nobody closed leaves no connection open either

    @cached_property
    def subjects(self) -> Subjects:
        """The connection, made when it is first needed; raises LogError for settings that it does not take."""
        from esper.log.kafka.subjects import Subjects  # takes half a second, and many reads need no schema

        return Subjects(self.settings)

    def _id(self, subject: str, schema: Schema) -> int:
        found = self.subjects.looked_up(subject, schema)
        if found is not None:
            return found
        self.subjects.protect(subject)
        return self.subjects.registered(subject, schema)

    def _schema(self, schema_id: int) -> Schema:
        asked = self._unknown.get(schema_id)
        if asked is None or time.monotonic() > asked + AGAIN:
            text = self.subjects.text(schema_id)
            if text is not None:
                return schema_from_json(text)
            self._unknown[schema_id] = time.monotonic()
        raise DecodeError(f"the registry has no schema {schema_id}")
