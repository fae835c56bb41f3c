"""What librdkafka says of an error, in our words."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from esper.log.kafka.clients import told

REFUSED = "kafka-1:9092: Connect to ipv4#10.0.0.1:9092 failed: Connection refused"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{REFUSED} (after 0ms in state CONNECT)", REFUSED),
        (f"{REFUSED} (after 0ms in state CONNECT, 1 identical error(s) suppressed)", REFUSED),
        (f"{REFUSED} (after 12ms in state SSL_HANDSHAKE, 30 identical error(s) suppressed)", REFUSED),
        (f"[thrd:kafka-1:9092/bootstrap]: {REFUSED.replace('9092: ', '9092/bootstrap: ')}", REFUSED),
        (
            "ProduceRequest for esper.runs [4] with 10 message(s) failed: Broker: Message size too large "
            "(broker 1 PID{Id:2,Epoch:4}, base seq 3): current transaction must be aborted",
            "Broker: Message size too large",
        ),
        ("Topic (or partition) is away", "Topic (or partition) is away"),
    ],
)
def test_an_error_is_told_without_the_clients_bookkeeping(text: str, said: str) -> None:
    assert told(KafkaError(KafkaError._TRANSPORT, text)) == said
