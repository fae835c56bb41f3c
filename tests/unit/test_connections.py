"""How clusters are reached: from environment variables, checked, with secrets masked."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper.connections import clickhouse_settings, kafka_settings, registry_settings
from esper.errors import UsageError


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the tests' own environment."""
    for name in ("ESPER_REGISTRY", *(f"ESPER_KAFKA_{of}" for of in ("SECURITY", "MECHANISM", "USERNAME", "PASSWORD"))):
        monkeypatch.delenv(name, raising=False)


def test_without_variables_brokers_are_plain_and_clickhouse_has_its_default_user() -> None:
    kafka, clickhouse = kafka_settings(), clickhouse_settings()
    assert (kafka.security, kafka.username, kafka.password, kafka.options) == ("plaintext", None, None, {})
    assert (clickhouse.username, clickhouse.password, clickhouse.ca) == ("default", None, None)


def test_each_variable_sets_what_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "ESPER_KAFKA_SECURITY": "sasl_ssl",
        "ESPER_KAFKA_MECHANISM": "PLAIN",
        "ESPER_KAFKA_USERNAME": "me",
        "ESPER_KAFKA_PASSWORD": "secret",
        "ESPER_KAFKA_CA": "/ca.pem",
        "ESPER_KAFKA_OPTIONS": '{"client.rack": "1"}',
        "ESPER_REGISTRY": "http://registry/v7",
        "ESPER_REGISTRY_USERNAME": "you",
        "ESPER_REGISTRY_PASSWORD": "hidden",
        "ESPER_CLICKHOUSE_USERNAME": "they",
        "ESPER_CLICKHOUSE_PASSWORD": "buried",
    }.items():
        monkeypatch.setenv(name, value)
    kafka, registry, clickhouse = kafka_settings(), registry_settings(), clickhouse_settings()
    assert (kafka.security, kafka.mechanism, kafka.username, kafka.ca) == ("sasl_ssl", "PLAIN", "me", Path("/ca.pem"))
    assert kafka.options == {"client.rack": "1"}
    assert (registry.url, registry.username, clickhouse.username) == ("http://registry/v7", "you", "they")
    passwords = [each.password for each in (kafka, registry, clickhouse)]
    assert [each.get_secret_value() for each in passwords if each] == ["secret", "hidden", "buried"]
    shown = f"{kafka!r} {registry!r} {clickhouse!r}"
    assert not [word for word in ("secret", "hidden", "buried") if word in shown.replace("SecretStr", "")]


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        (
            "ESPER_KAFKA_SECURITY",
            "tls",
            "ESPER_KAFKA_*: Input should be 'plaintext', 'ssl', 'sasl_plaintext' or 'sasl_ssl'",
        ),
        (
            "ESPER_KAFKA_SECURITY",
            "sasl_ssl",
            "ESPER_KAFKA_*: Value error, sasl_ssl with SCRAM-SHA-512 needs ESPER_KAFKA_USERNAME and _PASSWORD",
        ),
        ("ESPER_KAFKA_OPTIONS", "{", 'ESPER_KAFKA_*: error parsing value for field "options" from source'),
    ],
)
def test_a_variable_that_is_wrong_is_one_line(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError) as raised:
        kafka_settings()
    assert str(raised.value).startswith(f"environment variables {words}")
    assert "\n" not in str(raised.value)


def test_a_token_needs_no_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPER_KAFKA_SECURITY", "sasl_ssl")
    monkeypatch.setenv("ESPER_KAFKA_MECHANISM", "OAUTHBEARER")
    assert kafka_settings().mechanism == "OAUTHBEARER"


def test_a_log_on_kafka_needs_a_registry_whose_url_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"^a log on Kafka needs a schema registry; set ESPER_REGISTRY to its"):
        registry_settings()
    monkeypatch.setenv("ESPER_REGISTRY", "http://me:secret@registry/v7")
    with pytest.raises(UsageError, match=r"name user and password in ESPER_REGISTRY_USERNAME and _PASSWORD") as raised:
        registry_settings()
    assert "secret" not in str(raised.value)
