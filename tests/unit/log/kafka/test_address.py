"""Where a log on Kafka lies, and what the cluster calls our names there."""

from __future__ import annotations

import pytest

from esper.errors import UsageError
from esper.log.kafka.address import Address


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("kafka://localhost:9092", Address("localhost:9092")),
        ("kafka://localhost:9092/", Address("localhost:9092")),
        ("kafka://a:1,b-2.example:65535/team.one_x-y", Address("a:1,b-2.example:65535", "team.one_x-y")),
        ("kafka://[::1]:9092/p", Address("[::1]:9092", "p")),
    ],
)
def test_an_address_is_its_brokers_and_a_prefix(url: str, address: Address) -> None:
    assert Address.parse(url) == address
    assert Address.parse(address.url) == address


@pytest.mark.parametrize(
    "url",
    [
        "kafka://",
        "kafka://host",
        "kafka://host:",
        "kafka://host:123456",
        "kafka://a:1,/p",
        "kafka://a:1/p/q",
        "kafka://a:1/p q",
        "http://a:1",
        "kafka://a:1/p\n",
    ],
)
def test_what_is_no_address_is_refused_with_the_form_that_it_has(url: str) -> None:
    with pytest.raises(UsageError) as raised:
        Address.parse(url)
    assert str(raised.value) == (
        f"{url!r} is not a log on Kafka; write kafka://HOST:PORT[,HOST:PORT...][/PREFIX] (letters, digits, ._-)"
    )


def test_a_password_in_an_address_is_not_shown() -> None:
    with pytest.raises(UsageError, match=r"^'kafka://\*\*\*@host:9092/p' is not a log on Kafka") as raised:
        Address.parse("kafka://me:secret@host:9092/p")
    assert "secret" not in str(raised.value)


def test_a_prefix_sets_the_clusters_names_apart() -> None:
    assert Address("a:1").url == "kafka://a:1"
    assert Address("a:1").named("esper.runs") == "esper.runs"
    assert Address("a:1", "team").named("esper.runs") == "team.esper.runs"


def test_a_transactional_id_holds_the_run_id_and_tells_any_two_apart() -> None:
    assert Address("a:1").transactional_id("digits-1_2.3~4") == "esper-run-digits-1_2.3~4"
    assert Address("a:1", "team").transactional_id("a/b c%") == "team.esper-run-a%2Fb%20c%25"
