"""The log on Apache Kafka, with a schema registry that speaks Confluent's REST API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper.connections import kafka_settings, registry_settings

if TYPE_CHECKING:
    from esper.log.kafka.log import KafkaLog


def open_kafka(url: str) -> KafkaLog:
    """The log at ``kafka://HOST:PORT[,HOST:PORT...][/PREFIX]``; ``esper.connections`` says how to reach it.

    Raises UsageError for another URL, or settings that do not fit; no broker is asked yet.
    """
    from esper.log.kafka.address import Address
    from esper.log.kafka.log import KafkaLog

    return KafkaLog(Address.parse(url), kafka_settings(), registry_settings())
