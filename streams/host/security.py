"""The connection settings that every Kafka client of Esper's shares, as Faust's client wants them."""

from __future__ import annotations

from ssl import SSLContext, create_default_context

from aiokafka.abc import AbstractTokenProvider  # type: ignore[import-untyped]
from faust.auth import Credentials, OAuthCredentials, SASLCredentials, SSLCredentials

from esper.connections import KafkaSettings
from esper.errors import UsageError


def credentials(settings: KafkaSettings) -> Credentials | None:
    """Faust's credentials of ``settings``; None for a plain connection."""
    context = tls(settings) if settings.security.endswith("ssl") else None
    if settings.security == "ssl":
        return SSLCredentials(context)
    if not settings.security.startswith("sasl"):
        return None
    if settings.mechanism == "OAUTHBEARER":
        return OAuthCredentials(oauth_cb=_Token(settings), ssl_context=context)
    return SASLCredentials(
        mechanism=settings.mechanism,
        username=settings.username,
        password=settings.password.get_secret_value() if settings.password else None,
        ssl_context=context,
    )


def tls(settings: KafkaSettings) -> SSLContext:
    """The context for brokers of ``settings``; raises UsageError."""
    try:
        context = create_default_context(cafile=str(settings.ca) if settings.ca else None)
        if settings.certificate:
            password = settings.key_password.get_secret_value() if settings.key_password else None
            context.load_cert_chain(settings.certificate, settings.key, password)
    except (OSError, ValueError) as error:
        raise UsageError(f"ESPER_KAFKA_CA, _CERTIFICATE, _KEY: {error}") from error
    return context


class _Token(AbstractTokenProvider):  # type: ignore[misc]
    """The bearer token that the settings hold: raw options, which could ask a server for one, reach librdkafka only."""

    def __init__(self, settings: KafkaSettings) -> None:
        if settings.password is None:
            raise UsageError("workers take OAUTHBEARER's token from ESPER_KAFKA_PASSWORD, which is not set")
        self._token = settings.password

    async def token(self) -> str:
        return self._token.get_secret_value()
