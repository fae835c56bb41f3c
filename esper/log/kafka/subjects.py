"""Questions to the schema registry, through Confluent's client; its errors in our words.

A registry that does not answer is a LogError, and so is a web server that knows no such page; a registry that answers
that it has no such schema, subject or version is not.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from confluent_kafka.schema_registry import Schema as Text
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from esper.connections import RegistrySettings
from esper.errors import LogError, LogRefused
from esper.events.encoding.schemas import Schema

_http = importlib.import_module("httpx2" if importlib.util.find_spec("httpx2") else "httpx")  # the client's own choice

LEVEL = "BACKWARD_TRANSITIVE"
TIMEOUT, RETRIES = 3, 1
_NO_PAGE, _INCOMPATIBLE, _DENIED = 404, (409, 422), (401, 403)
_MISSING = range(40401, 40500)
"""A registry's own codes for what it does not have: subject, version, schema, level. A bare 404 is a wrong URL's."""
_BASE = (
    "set ESPER_REGISTRY to its base URL (Apicurio's is .../apis/ccompat/v7; `esper dev status` prints a local one's)"
)
T = TypeVar("T")


class Subjects:
    """One connection to the registry that ``settings`` names."""

    def __init__(self, settings: RegistrySettings) -> None:
        self._name = f"schema registry {settings.url}"
        options: dict[str, Any] = {"url": settings.url, "timeout": TIMEOUT, "max.retries": RETRIES}
        if settings.username and settings.password:
            options["basic.auth.user.info"] = f"{settings.username}:{settings.password.get_secret_value()}"
        if settings.ca:
            options["ssl.ca.location"] = str(settings.ca)
        try:
            self._client = SchemaRegistryClient(options)
        except (ValueError, OSError) as error:
            raise LogError(f"{self._name}: {error}; check ESPER_REGISTRY and ESPER_REGISTRY_CA") from error

    def close(self) -> None:
        """Close the connection for good."""
        self._client.close()

    def looked_up(self, subject: str, schema: Schema) -> int | None:
        """The id of ``schema`` under ``subject``; None if it is not there."""
        try:
            return self._asked(lambda: self._client.lookup_schema(subject, _text(schema))).schema_id
        except SchemaRegistryError as error:
            if error.error_code in _MISSING:
                return None
            raise self._failure(error, f"looking up {subject}") from error

    def registered(self, subject: str, schema: Schema) -> int:
        """The id of ``schema``, which is registered under ``subject``."""
        try:
            return self._asked(lambda: self._client.register_schema(subject, _text(schema)))
        except SchemaRegistryError as error:
            if (found := self.looked_up(subject, schema)) is not None:  # another process was faster
                return found
            raise self._failure(error, f"registering {subject}") from error

    def protect(self, subject: str) -> None:
        """Have later versions under ``subject`` read all before them."""
        try:
            self._asked(lambda: self._client.set_compatibility(subject, LEVEL))
        except SchemaRegistryError as error:
            if self.level(subject) != LEVEL:  # or another process was faster
                raise self._failure(error, f"setting {subject} to {LEVEL}") from error

    def level(self, subject: str) -> str:
        """What later versions under ``subject`` have to be; empty if nothing says so."""
        try:
            return self._asked(lambda: self._client.get_compatibility(subject))
        except SchemaRegistryError as error:
            if error.error_code in _MISSING:
                return ""
            raise self._failure(error, f"asking about {subject}") from error

    def versions(self, subject: str) -> list[str]:
        """Every version under ``subject``, oldest first."""
        try:
            numbers = self._asked(lambda: self._client.get_versions(subject))
            ids = [self._asked(partial(self._client.get_version, subject, number)) for number in numbers]
        except SchemaRegistryError as error:
            if error.error_code in _MISSING:
                return []
            raise self._failure(error, f"asking for the versions of {subject}") from error
        return [each.schema.schema_str or "" for each in ids]

    def text(self, schema_id: int) -> str | None:
        """The schema with this id; None if there is none."""
        try:
            found = self._asked(lambda: self._client.get_schema(schema_id)).schema_str
        except SchemaRegistryError as error:
            if error.error_code in _MISSING:
                return None
            raise self._failure(error, f"asking for schema {schema_id}") from error
        if not found:
            raise self._stranger()
        return found

    def count(self) -> int:
        """How many subjects there are."""
        try:
            return len(self._asked(self._client.get_subjects))
        except SchemaRegistryError as error:
            raise self._failure(error, "asking for the subjects") from error

    def _asked(self, question: Callable[[], T]) -> T:
        try:
            return question()
        except _http.HTTPError as error:
            raise LogError(
                f"{self._name}: it does not answer ({error or type(error).__name__}); start it, or set ESPER_REGISTRY "
                f"to where it is"
            ) from error
        except (ValueError, AttributeError, TypeError, KeyError) as error:  # a page, or JSON of something else
            raise self._stranger() from error

    def _stranger(self) -> LogError:
        return LogError(f"{self._name}: what answers there is no schema registry; {_BASE}")

    def _failure(self, error: SchemaRegistryError, what: str) -> LogError:
        where = f"{self._name}: {what}"
        if error.http_status_code in _DENIED:
            return LogRefused(f"{where}: it refuses us; check ESPER_REGISTRY_USERNAME and ESPER_REGISTRY_PASSWORD")
        if error.http_status_code in _INCOMPATIBLE:
            return LogRefused(
                f"{where}: it would not read what was written before ({error.error_message}); give new fields a "
                f"default and change no type; `esper schemas check --registry` says which field it is"
            )
        if error.http_status_code == _NO_PAGE:
            return LogError(f"{where}: it answered 404, so no registry is at that path; {_BASE}")
        return LogError(f"{where}: it answered {error.http_status_code} ({error.error_message}); see ESPER_REGISTRY")


def _text(schema: Schema) -> Text:
    return Text(schema.json, "AVRO")
