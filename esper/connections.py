"""How to reach a Kafka cluster and its schema registry: environment variables ``ESPER_KAFKA_*``, ``ESPER_REGISTRY*``.

They are no part of a run: nothing here is ever written to a log, and secrets are masked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from esper.errors import UsageError

Security = Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"]
T = TypeVar("T", bound=BaseSettings)
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]


class KafkaSettings(BaseSettings):
    """Security of the connections to brokers; the same names serve every Kafka client that Esper uses."""

    model_config = SettingsConfigDict(env_prefix="ESPER_KAFKA_", extra="ignore", frozen=True)

    security: Security = Field("plaintext", description="protocol of the connection")
    mechanism: Mechanism = Field("SCRAM-SHA-512", description="SASL mechanism")
    username: str | None = Field(None, description="SASL user")
    password: SecretStr | None = Field(None, description="SASL password")
    ca: Path | None = Field(None, description="PEM file of the authority that signed the brokers' certificates")
    certificate: Path | None = Field(None, description="PEM file of the client's certificate")
    key: Path | None = Field(None, description="PEM file of the client's key")
    key_password: SecretStr | None = Field(None, description="password of that key")
    options: dict[str, str] = Field({}, description="raw librdkafka options, as JSON; they do not reach the workers")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (
            self.security.startswith("sasl")
            and self.mechanism != "OAUTHBEARER"
            and not (self.username and self.password)
        ):
            raise ValueError(f"{self.security} with {self.mechanism} needs ESPER_KAFKA_USERNAME and _PASSWORD")
        return self


class RegistrySettings(BaseSettings):
    """The schema registry, which speaks Confluent's REST API."""

    model_config = SettingsConfigDict(env_prefix="ESPER_REGISTRY_", extra="ignore", frozen=True)

    url: str = Field("", validation_alias="ESPER_REGISTRY", description="base URL")
    username: str | None = Field(None, description="user of HTTP basic authentication")
    password: SecretStr | None = Field(None, description="its password")
    ca: Path | None = Field(None, description="PEM file of the authority that signed its certificate")

    @model_validator(mode="after")
    def _no_secret_in_the_url(self) -> Self:
        if "@" in urlsplit(self.url).netloc:  # which is printed
            raise ValueError("name user and password in ESPER_REGISTRY_USERNAME and _PASSWORD, not in ESPER_REGISTRY")
        return self


class ClickHouseSettings(BaseSettings):
    """A ClickHouse server's user; the embedded engine has none."""

    model_config = SettingsConfigDict(env_prefix="ESPER_CLICKHOUSE_", extra="ignore", frozen=True)

    username: str = Field("default", description="user")
    password: SecretStr | None = Field(None, description="password")
    ca: Path | None = Field(None, description="PEM file of the authority that signed the server's certificate")


def clickhouse_settings() -> ClickHouseSettings:
    """The environment's; raises UsageError."""
    return _read(ClickHouseSettings)


def kafka_settings() -> KafkaSettings:
    """The environment's; raises UsageError."""
    return _read(KafkaSettings)


def registry_settings() -> RegistrySettings:
    """The environment's; raises UsageError where ``ESPER_REGISTRY`` is not set."""
    settings = _read(RegistrySettings)
    if not settings.url:
        raise UsageError(
            "a log on Kafka needs a schema registry; set ESPER_REGISTRY to its base URL (Apicurio's is "
            "http://HOST:PORT/apis/ccompat/v7; `esper dev status` prints a local one's)"
        )
    return settings


def _read(kind: type[T]) -> T:
    try:
        return kind()
    except (ValidationError, SettingsError) as error:
        prefix = kind.model_config.get("env_prefix", "")
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise UsageError(f"environment variables {prefix}*: {reason}") from error
