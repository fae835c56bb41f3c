"""librdkafka's clients: settings as its options, its log and errors in our words."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from concurrent.futures import Future
from typing import Any, TypeVar
from weakref import WeakSet

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from esper.connections import KafkaSettings
from esper.errors import LogError, LogRefused, UsageError
from esper.events.topics import RUNS
from esper.log.kafka.address import READERS, Address
from esper.log.port import MAX_BYTES

CONNECTING = 5.0
"""Seconds that brokers have to answer at first; the error is out within ten."""
ANSWER = 20.0
"""Seconds for one answer of a broker that has answered before."""
OVERHEAD = 64 << 10
"""Bytes that a record's batch may have beside the record."""

logger = logging.getLogger("esper.kafka")
T = TypeVar("T")

_REFUSALS = frozenset({KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError.SASL_AUTHENTICATION_FAILED})
_READER = {
    "isolation.level": "read_committed",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "earliest",
    "fetch.message.max.bytes": 4 << 20,
    "fetch.queue.backoff.ms": 10,
    "check.crcs": True,  # of what brokers have on disk: it costs nothing that could be measured
    "queued.max.messages.kbytes": 32 << 10,
}
_WRITER = {
    "acks": "all",
    "enable.idempotence": True,
    "partitioner": "murmur2_random",
    "compression.type": "lz4",  # headers repeat themselves
    "message.max.bytes": MAX_BYTES + OVERHEAD,
    "queue.buffering.max.messages": 1_000_000,
    "queue.buffering.max.kbytes": 256 << 10,
}


class ClusterClients:
    """Makes clients of one cluster. The connection is tried when the first client is wanted, once."""

    def __init__(self, address: Address, settings: KafkaSettings) -> None:
        self.address, self.settings = address, settings
        self._admin: AdminClient | None = None
        self._lock = threading.Lock()
        keep(self)

    @property
    def admin(self) -> AdminClient:
        """The administration client.

        Raises UsageError for settings that the client does not take, LogError if no broker answers or takes our
        credentials.
        """
        with self._lock:
            if self._admin is None:
                trouble = Trouble()
                try:
                    admin = AdminClient(self._options(trouble))
                except KafkaException as error:  # an option that there is not, a file that cannot be read
                    raise UsageError(f"environment variables ESPER_KAFKA_*: {told(error.args[0])}") from error
                self._connect(admin, trouble)
                self._admin = admin
            return self._admin

    def consumer(self, **options: Any) -> Consumer:
        """A consumer that reads what is committed. Option names have ``_`` for ``.``."""
        _ = self.admin
        group = {"group.id": self.address.named(READERS)}
        return Consumer(self._options(Trouble()) | _READER | group | _dotted(options))

    def producer(self, **options: Any) -> Producer:
        """An idempotent producer, connected: it would otherwise start with half a second of waiting."""
        _ = self.admin
        producer = Producer(self._options(Trouble()) | _WRITER | _dotted(options))
        try:
            producer.list_topics(self.address.named(RUNS), timeout=ANSWER)
        except KafkaException as error:
            raise self.error("asking for the brokers", error) from error
        return producer

    def result(self, future: Future[T], what: str) -> T:
        """What an administrative call gives; raises LogError, naming ``what`` was tried."""
        try:
            return future.result(timeout=ANSWER)
        except KafkaException as error:
            raise self.error(what, error) from error
        except TimeoutError as error:
            raise LogError(
                f"{self.address.servers}: {what}: no answer for {ANSWER:.0f} s; look at the brokers"
            ) from error

    def error(self, what: str, error: KafkaException) -> LogError:
        """``error`` in words, and what to do about it."""
        cause: KafkaError = error.args[0]
        kind = LogRefused if _denied(cause) else LogError
        return kind(f"{self.address.servers}: {what}: {told(cause)}{_remedy(cause)}")

    def close(self) -> None:
        """Let go of the administration client. Consumers and producers belong to whoever asked for them."""
        with self._lock:
            self._admin = None

    def _options(self, trouble: Trouble) -> dict[str, Any]:
        return {
            "bootstrap.servers": self.address.servers,
            "client.id": "esper",
            "error_cb": trouble.note,
            "logger": _Sink(),
            "reconnect.backoff.ms": 10,
            "reconnect.backoff.max.ms": 1000,
            "retry.backoff.ms": 20,
            **security(self.settings),
            **self.settings.options,
        }

    def _connect(self, admin: AdminClient, trouble: Trouble) -> None:
        """Wait for a first answer; a refusal is final, though the client itself would try for ever."""
        answer = admin.describe_cluster(request_timeout=CONNECTING)
        deadline = time.monotonic() + CONNECTING
        while not answer.done() and time.monotonic() < deadline:
            admin.poll(0.05)
            if trouble.refusal:
                raise LogError(f"{self.address.servers}: {trouble.refusal}; {_CREDENTIALS}")
        admin.poll(0)
        if not answer.done() or answer.exception() is not None:
            last = f" ({trouble.last})" if trouble.last else ""
            raise LogError(
                f"{self.address.servers}: no Kafka broker answers there{last}; check that one runs (`esper dev up` "
                f"starts one), the address in the log's URL, and ESPER_KAFKA_SECURITY"
            )


def keep(holder: object) -> None:
    """Have a forked child never free the client that ``holder`` has: its threads live in the parent alone."""
    _holders.add(holder)


_holders: WeakSet[object] = WeakSet()
_inherited: list[object] = []
os.register_at_fork(after_in_child=lambda: _inherited.extend(_holders))


class Trouble:
    """What a client last complained of."""

    def __init__(self) -> None:
        self.last = ""
        self.refusal = ""

    def note(self, error: KafkaError) -> None:
        """librdkafka's ``error_cb``: keeps the error's words, and apart from others those of refused credentials or
        TLS."""
        if error.code() in _REFUSALS:
            self.refusal = told(error)
        if error.code() != KafkaError._ALL_BROKERS_DOWN:  # says less than what came before it
            self.last = told(error)
        logger.debug("%s", error)


class _Sink:
    """librdkafka's log, which would go to stderr by itself; it is for those who look for a fault in it."""

    def log(self, level: int, form: str, *arguments: object) -> None:
        logger.debug(form, *arguments)


def security(settings: KafkaSettings) -> dict[str, Any]:
    """The options of a secured connection."""
    given = {
        "security.protocol": settings.security,
        "ssl.ca.location": settings.ca,
        "ssl.certificate.location": settings.certificate,
        "ssl.key.location": settings.key,
        "ssl.key.password": settings.key_password and settings.key_password.get_secret_value(),
    }
    if settings.security.startswith("sasl"):
        given |= {
            "sasl.mechanism": settings.mechanism,
            "sasl.username": settings.username,
            "sasl.password": settings.password and settings.password.get_secret_value(),
        }
    return {name: str(value) for name, value in given.items() if value}


def told(error: KafkaError) -> str:
    """The error's text, without the client's and thread's names."""
    text = _BOOKKEEPING.sub("", " ".join(error.str().split()))
    text = re.sub(r"^ProduceRequest for .* failed: | \(broker \d+ PID\{.*$", "", text)
    return text.split("]: ", 1)[-1] if text.startswith("[thrd") else text


_BOOKKEEPING = re.compile(r" \(after \d+ms in state \w+(, \d+ identical error\(s\) suppressed)?\)|/bootstrap(?=:)")
_CREDENTIALS = "check ESPER_KAFKA_SECURITY, _MECHANISM, _USERNAME, _PASSWORD and _CA"
_RIGHTS = "; this user lacks the right: `esper topics init --acls` prints and sets what each needs"


def _denied(error: KafkaError) -> bool:
    return "AUTHORIZATION_FAILED" in error.name()


def _remedy(error: KafkaError) -> str:
    if _denied(error):
        return _RIGHTS
    if error.code() in _REFUSALS:
        return f"; {_CREDENTIALS}"
    return ""


def _dotted(options: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("_", "."): value for name, value in options.items()}
