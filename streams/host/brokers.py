"""Whether the brokers answer a worker, and the clients' own words about it."""

from __future__ import annotations

import logging

from confluent_kafka import KafkaException

from esper.events.topics import RUNS
from esper.log.kafka.log import KafkaLog

logger = logging.getLogger("esper.worker")
BROKER_TIMEOUT = 3.0
"""Seconds that the brokers have to answer."""
CLIENTS = ("aiokafka", "faust", "mode", "asyncio", "streams")
"""The loggers of those who talk to brokers; Faust names that of an application after its module."""


class Brokers:
    """Asks the brokers of a log, and says so once when they stop answering and once when they answer again."""

    def __init__(self, log: KafkaLog, worker: str) -> None:
        self._log, self._worker = log, worker
        self.answer = True

    @property
    def away(self) -> str:
        """What to say while no broker answers."""
        return f"kafka {self._log.address.servers} does not answer"

    def ask(self) -> bool:
        """Whether any of them answers now; blocks for a while where none does."""
        before, self.answer = self.answer, self._answers()
        if before and not self.answer:
            logger.warning("worker %s: %s; waiting until it does", self._worker, self.away)
        if self.answer and not before:
            logger.warning("worker %s: kafka %s answers again", self._worker, self._log.address.servers)
        return self.answer

    def _answers(self) -> bool:
        try:
            self._log.cluster.admin.list_topics(self._log.address.named(RUNS), timeout=BROKER_TIMEOUT)
        except KafkaException as error:
            logger.debug("%s", error)
            return False
        return True


def quieten() -> None:
    """Have what the clients log be debug lines of ours: while a broker is away each says so many times a second."""
    for name in CLIENTS:
        logging.getLogger(name).handlers = [_Debug()]
        logging.getLogger(name).propagate = False


class _Debug(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        crashed = record.name.startswith("faust.agents") and record.levelno >= logging.ERROR
        level = logging.ERROR if crashed else logging.DEBUG
        logger.log(level, "%s: %s", record.name, record.getMessage(), exc_info=record.exc_info)
