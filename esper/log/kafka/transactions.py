"""Transactions under one transactional id: at most one producer has it, and the newest fences those before."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from esper.errors import LogError
from esper.log.kafka.clients import ClusterClients, keep, told

STEP = 2.0
"""Seconds of one call into the client, so that a closed writer is noticed."""

_CONSEQUENCES = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT, KafkaError._STATE})
Message = tuple[str, bytes, bytes, list[tuple[str, str | bytes | None]], bool]
"""Real topic, key, value, headers, and whether its offset is wanted: to be told of it costs as much as to send it."""


class ProducerLost(Exception):
    """The producer is of no use any more; what it was committing may or may not be there."""


class OutOfStep(LogError):
    """Nothing was written, because the client still counts a message that was refused before; now it knows."""


class Transactions:
    """One producer with a transactional id. Not for threads to share.

    Every method waits up to its deadline (of ``time.monotonic``) for brokers that do not answer. An error that says
    that nothing was written is a LogError; one that ends the producer, or leaves open what happened, is ProducerLost.
    """

    def __init__(self, cluster: ClusterClients, transactional_id: str, timeout: float, deadline: float) -> None:
        """Fence the producers before, once their last transaction is committed or aborted."""
        self.cluster, self.name = cluster, transactional_id
        self.closing = False
        self._failed: KafkaError | None = None
        self._producer: Producer | None = cluster.producer(
            transactional_id=transactional_id, transaction_timeout_ms=round(timeout * 1000), linger_ms=5
        )
        keep(self)
        with suppress(KafkaException):  # without a connection the client looks for the coordinator 0.5 s later
            self._producer.list_topics("__transaction_state", timeout=STEP)
        try:
            self._repeat(self._producer.init_transactions, deadline)
        except KafkaException as error:
            raise cluster.error(f"starting {transactional_id}", error) from error

    def write(self, messages: Iterable[Message], deadline: float) -> dict[int, int]:
        """Send ``messages`` in the open transaction; the wanted offsets, by the messages' places among them. Some are
        missing if messages were refused: then ``commit`` will say so."""
        producer = self._alive()
        offsets: dict[int, int] = {}

        def delivered(place: int, error: KafkaError | None, message: Any) -> None:
            if error is None:
                offsets[place] = message.offset()
            elif self._failed is None or self._failed.code() in _CONSEQUENCES:
                self._failed = error

        for place, (topic, key, value, headers, wanted) in enumerate(messages):
            report = partial(delivered, place) if wanted else None
            while True:
                try:
                    producer.produce(topic, value, key, headers=headers, on_delivery=report)
                    break
                except BufferError:
                    self._overdue(deadline)
                    producer.poll(0.05)
                except KafkaException as error:
                    if error.args[0].fatal():
                        raise ProducerLost(told(error.args[0])) from error
                    self._failed = self._failed or error.args[0]  # a message before it was refused
                    return offsets
        try:
            while producer.flush(STEP):
                self._overdue(deadline)
        except KafkaException as error:  # only a fatal one gets here
            raise ProducerLost(told(error.args[0])) from error
        except SystemError as error:  # the client's, when a delivery report follows a fatal error
            raise ProducerLost("the brokers gave this producer up") from error
        return offsets

    def begin(self) -> None:
        """Begin the next transaction; no other may be open."""
        self._failed = None
        try:
            self._alive().begin_transaction()
        except KafkaException as error:
            raise ProducerLost(told(error.args[0])) from error

    def commit(self, deadline: float) -> None:
        """Commit what was written, all or nothing."""
        producer = self._alive()
        if self._failed is not None and self._failed.code() not in _CONSEQUENCES:
            raise self._aborted(self._failed, deadline)
        try:
            self._repeat(producer.commit_transaction, deadline)  # tells the cause if there were consequences alone
        except KafkaException as error:
            cause: KafkaError = error.args[0]
            if not cause.txn_requires_abort():
                raise ProducerLost(told(cause)) from error
            raise self._aborted(cause, deadline) from error
        if self._failed is not None:
            raise ProducerLost("a part was committed that should not have been")

    def abort(self, deadline: float) -> None:
        """Give up the open transaction."""
        try:
            self._repeat(self._alive().abort_transaction, deadline)
        except KafkaException as error:
            raise ProducerLost(told(error.args[0])) from error

    def close(self) -> None:
        """End the producer; an open transaction is aborted by the broker, later or at the next fencing."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()

    def _aborted(self, cause: KafkaError, deadline: float) -> LogError:
        """What to raise once the transaction is aborted; if it cannot be, the producer is of no use any more, but a
        transaction that nobody committed never will be."""
        try:
            self.abort(deadline)
        except ProducerLost:
            self.close()
        if cause.code() == KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER:
            return OutOfStep(f"{self.cluster.address.servers}: nothing was written: {told(cause)}; try again")
        return self.cluster.error("nothing was written", KafkaException(cause))

    def _alive(self) -> Producer:
        if self._producer is None:
            raise ProducerLost("it ended before")
        return self._producer

    def _overdue(self, deadline: float) -> None:
        if self.closing or time.monotonic() > deadline:
            raise ProducerLost("the brokers did not answer in time")

    def _repeat(self, call: Any, deadline: float) -> None:
        """``call(timeout)``, again while the client says that this may help."""
        while True:
            try:
                call(STEP)
                return
            except KafkaException as error:
                if not error.args[0].retriable():
                    raise
                self._overdue(deadline)
