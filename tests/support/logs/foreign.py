"""Records that Esper did not write, put into a log behind its back."""

from __future__ import annotations

from pathlib import Path

from esper.events.encoding.schemas import UNKNOWN
from esper.log.port import Position, Record
from esper.log.sqlite.database import Database
from esper.log.sqlite.log import insert


def inject(url: str, topic: str, key: str, value: bytes, headers: tuple[tuple[str, bytes], ...] = ()) -> Position:
    """Append ``value`` to the log at ``url`` as it is, with no schema of ours."""
    if url.startswith("kafka://"):
        return _produce(url, topic, key, value, headers)
    database = Database(Path(url.removeprefix("sqlite:///")))
    with database.transaction() as connection:
        [position] = insert(connection, [Record(topic, key, UNKNOWN, value, headers)])
    database.close()
    return position


def _produce(url: str, topic: str, key: str, value: bytes, headers: tuple[tuple[str, bytes], ...]) -> Position:
    from confluent_kafka import Producer

    from esper.log.kafka.address import Address

    address, positions = Address.parse(url), []
    producer = Producer({"bootstrap.servers": address.servers, "partitioner": "murmur2_random"})

    def delivered(error: object, message: object) -> None:
        assert error is None, error
        positions.append(Position(topic, message.partition(), message.offset()))  # type: ignore[attr-defined]

    producer.produce(address.named(topic), value, key, headers=list(headers), on_delivery=delivered)
    assert producer.flush(30) == 0
    return positions[0]
