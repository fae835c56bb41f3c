"""Who may do what on a secured cluster: TLS, passwords, and the least rights that ``esper topics init`` sets."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from confluent_kafka import Producer
from pydantic import SecretStr

from esper.cli.main import main
from esper.connections import KafkaSettings, registry_settings
from esper.errors import LogError, UsageError
from esper.events.encoding.schemas import schema_of
from esper.events.runs import AlertRaised
from esper.events.signals import CommandIssued
from esper.events.topics import ANALYSED, ASSETS, DEADLETTER, PARTITIONS, ROLES, RUNS, SIGNALS, TOPICS
from esper.log.chain import digest
from esper.log.exclusions import excluded, exclusion_record
from esper.log.kafka.address import Address
from esper.log.kafka.admin.acls import RIGHTS
from esper.log.kafka.admin.topics import make_topics
from esper.log.kafka.clients import security
from esper.log.kafka.log import KafkaLog
from esper.log.port import Record
from esper.log.records import signal_record
from esper.nissa.sink.shares import GROUP
from tests.support.services.brokers import Brokers
from tests.support.services.secured import PASSWORD, Secured, secured_broker
from tests.support.services.workers import Worker, digests, made_run, records

SCHEMA = schema_of(AlertRaised)
PREFIX = "guarded"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, shared_brokers: Brokers) -> Iterator[Secured]:
    """The broker, with a log whose rights are set."""
    with closing(secured_broker(tmp_path_factory.mktemp("secured"))) as broker:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ESPER_REGISTRY", shared_brokers.registry)
            users = [word for role in ROLES for word in (f"--{role}", role)]
            url = f"kafka://{broker.open}/{PREFIX}"
            assert main(["topics", "init", "--log", url, "--acls", *users]) == 0
        yield broker


@pytest.fixture
def log_of(
    secured: Secured, shared_brokers: Brokers, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., KafkaLog]]:
    """Opens the log as a user, by SCRAM."""
    monkeypatch.setenv("ESPER_REGISTRY", shared_brokers.registry)
    opened: list[KafkaLog] = []

    def open_as(user: str, *, prefix: str = PREFIX, password: str = PASSWORD) -> KafkaLog:
        settings = KafkaSettings(
            security="sasl_plaintext", mechanism="SCRAM-SHA-512", username=user, password=SecretStr(password)
        )
        opened.append(KafkaLog(Address(secured.scram, prefix), settings, registry_settings()))
        return opened[-1]

    yield open_as
    for log in opened:
        log.close()


def event(run_id: str, epoch: int, sequence: int) -> Record:
    return Record(RUNS, run_id, SCHEMA, b"value", (), epoch, sequence)


def command(run_id: str) -> Record:
    content = CommandIssued(command="pause", seed=None, issuer="a test", nonce=os.urandom(4).hex(), reason="")
    return signal_record(run_id, content, writer="test", time=datetime.now(UTC))


def test_each_user_can_do_its_work(log_of: Callable[..., KafkaLog]) -> None:
    trainer, worker, sink, operator, arbiter = (log_of(user) for user in ROLES)
    writer = trainer.open_writer("work")
    writer.append([event("work", writer.epoch, 1), Record(ASSETS, "a", SCHEMA, b"")])
    sent = command("work")
    operator.signal(sent)
    worker.signal(command("work"))
    worker.signal(Record(DEADLETTER, "esper.runs/0:1", SCHEMA, b""))
    assert len(list(arbiter.read(RUNS, "work"))) == 1
    for log in (trainer, worker, sink, operator):
        assert len(list(log.read(RUNS, "work"))) == 1
        assert len(list(log.read(SIGNALS, "work"))) == 2
        assert len(list(log.read(ASSETS))) == 1
    sink.signal(Record(DEADLETTER, "esper.runs/0:2", SCHEMA, b""))
    for log in (operator, trainer, sink):
        assert len(list(log.read(DEADLETTER))) == 2
    assert trainer.open_writer("work").epoch == 2


def test_only_an_arbiter_takes_records_out_of_runs(log_of: Callable[..., KafkaLog]) -> None:
    log_of("trainer").open_writer("judged").append([event("judged", 1, 1)])
    for user in ("trainer", "worker", "sink", "operator"):
        [entry] = log_of(user).read(RUNS, "judged")
        with pytest.raises(LogError, match=r"uthorization failed.*esper topics init --acls"):
            log_of(user).signal(exclusion_record(entry, "why", writer="test", time=datetime.now(UTC)))
    arbiter = log_of("arbiter")
    arbiter.signal(exclusion_record(entry, "why", writer="test", time=datetime.now(UTC)))
    for user in ROLES:
        assert excluded(log_of(user), "judged") == {("judged", entry.position, digest(entry.record))}


def test_sinks_alone_share_the_log(log_of: Callable[..., KafkaLog]) -> None:
    with log_of("sink").share(ANALYSED, f"{GROUP}-0123") as share:
        until, taken = time.monotonic() + 30, 0
        while taken < len(ANALYSED) * PARTITIONS:
            assert time.monotonic() < until
            taken += sum(map(len, share.poll(1.0).taken.values()))
        assert share.sure()
    for user, group in (("trainer", f"{GROUP}-0123"), ("sink", "another")):
        with log_of(user).share([RUNS], group) as share, pytest.raises(LogError, match=r"uthorization failed.*--acls"):
            share.poll(20.0)


def test_only_a_trainer_writes_transitions(secured: Secured, log_of: Callable[..., KafkaLog]) -> None:
    for user in ("worker", "sink", "operator"):
        with pytest.raises(LogError, match=r"uthorization failed.*esper topics init --acls"):
            log_of(user).open_writer("forged")
        forger = Producer(
            {
                "bootstrap.servers": secured.scram,
                "security.protocol": "SASL_PLAINTEXT",
                "sasl.mechanism": "SCRAM-SHA-512",
                "sasl.username": user,
                "sasl.password": PASSWORD,
                "log_level": 0,
            }
        )
        outcomes: list[str] = []
        forger.produce(
            f"{PREFIX}.{RUNS}", b"", b"forged", on_delivery=lambda error, _, told=outcomes: told.append(error.name())
        )
        forger.flush(20)
        assert outcomes == ["TOPIC_AUTHORIZATION_FAILED"]
    assert list(log_of("trainer").read(RUNS, "forged")) == []


def test_a_trainer_gives_no_commands(log_of: Callable[..., KafkaLog]) -> None:
    trainer = log_of("trainer")
    began = time.monotonic()
    with pytest.raises(LogError, match=r"sending to esper\.signals: .*uthorization failed.*--acls"):
        trainer.signal(command("mine"))
    assert time.monotonic() - began < 10
    assert list(trainer.read(SIGNALS, "mine")) == []


def test_a_user_without_rights_learns_nothing(log_of: Callable[..., KafkaLog]) -> None:
    stranger = log_of("stranger")
    for use in (lambda: list(stranger.read(RUNS)), lambda: stranger.open_writer("x"), lambda: make_topics(stranger)):
        with pytest.raises(LogError, match=r"uthorization failed"):
            use()


def test_rights_end_at_the_logs_prefix(secured: Secured, log_of: Callable[..., KafkaLog]) -> None:
    elsewhere = log_of("trainer", prefix="elsewhere")
    with pytest.raises(LogError, match=r"uthorization failed.*--acls"):
        elsewhere.open_writer("x")
    with pytest.raises(LogError, match=r"uthorization failed"):
        make_topics(elsewhere)


@pytest.mark.parametrize("wrong", ["password", "mechanism", "protocol", "authority"])
def test_wrong_credentials_are_one_clear_line_soon(
    wrong: str, secured: Secured, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    given = {
        "password": (secured.scram, "sasl_plaintext", "SCRAM-SHA-512", "guess", None),
        "mechanism": (secured.scram, "sasl_plaintext", "PLAIN", PASSWORD, None),
        "protocol": (secured.scram, "plaintext", "PLAIN", PASSWORD, None),
        "authority": (secured.tls, "sasl_ssl", "PLAIN", PASSWORD, secured.folder / "other-ca.pem"),
    }
    servers, protocol, mechanism, password, ca = given[wrong]
    for name, value in {
        "ESPER_REGISTRY": "http://127.0.0.1:1",
        "ESPER_KAFKA_SECURITY": protocol,
        "ESPER_KAFKA_MECHANISM": mechanism,
        "ESPER_KAFKA_USERNAME": "trainer",
        "ESPER_KAFKA_PASSWORD": password,
        **({"ESPER_KAFKA_CA": str(ca)} if ca else {}),
    }.items():
        monkeypatch.setenv(name, value)
    began = time.monotonic()
    assert main(["runs", "--log", f"kafka://{servers}/{PREFIX}"]) == 1
    assert time.monotonic() - began < 10
    told = capfd.readouterr()
    assert told.out == ""
    [line] = told.err.splitlines()
    assert servers in line
    assert "ESPER_KAFKA_SECURITY" in line
    assert password == PASSWORD or password not in line


def test_tls_with_a_password_and_with_a_certificate(
    secured: Secured, shared_brokers: Brokers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESPER_REGISTRY", shared_brokers.registry)
    ca = secured.folder / "ca.pem"
    by_password = KafkaSettings(
        security="sasl_ssl", mechanism="PLAIN", username="trainer", password=SecretStr(PASSWORD), ca=ca
    )
    with closing(KafkaLog(Address(secured.tls, PREFIX), by_password, registry_settings())) as log:
        writer = log.open_writer("by-tls")
        writer.append([event("by-tls", writer.epoch, 1)])
        assert len(list(log.read(RUNS, "by-tls"))) == 1
    by_certificate = KafkaSettings(
        security="ssl", ca=ca, certificate=secured.folder / "client.pem", key=secured.folder / "client.key"
    )
    with closing(KafkaLog(Address(secured.mutual, PREFIX), by_certificate, registry_settings())) as log:
        assert log.log_id.startswith(PREFIX)
        with pytest.raises(LogError, match="uthorization failed"):  # known, but without rights
            log.read(RUNS)


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "PLAIN"])
def test_a_worker_with_its_rights_keeps_the_views(
    mechanism: str, secured: Secured, log_of: Callable[..., KafkaLog], tmp_path: Path
) -> None:
    """Both of its clients by the same settings: SCRAM, and a password by TLS."""
    events, run_id = made_run(1, 3)[:5], f"viewed-{mechanism}"
    writer = log_of("trainer").open_writer(run_id)
    writer.append(records(run_id, events))
    scram = mechanism != "PLAIN"
    settings = {
        "ESPER_KAFKA_SECURITY": "sasl_plaintext" if scram else "sasl_ssl",
        "ESPER_KAFKA_MECHANISM": mechanism,
        "ESPER_KAFKA_USERNAME": "worker",
        "ESPER_KAFKA_PASSWORD": PASSWORD,
        "ESPER_KAFKA_CA": str(secured.folder / "ca.pem"),
    }
    worker = Worker(f"kafka://{secured.scram if scram else secured.tls}/{PREFIX}", tmp_path, "worker", **settings)
    try:
        assert worker.await_run(run_id, len(events))["digest"] == digests(run_id, events)[len(events)]
    finally:
        worker.close()


def test_brokers_without_an_authorizer_say_so(
    kafka_log_url: Callable[[], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["topics", "init", "--log", kafka_log_url(), "--acls", "--trainer", "t"]) == 1
    assert "authorizer.class.name" in capsys.readouterr().err
    assert main(["topics", "init", "--acls"]) == 2
    assert main(["topics", "init", "--log", "sqlite:///x.db"]) == 2


def test_settings_become_options_of_the_client(tmp_path: Path) -> None:
    assert security(KafkaSettings()) == {"security.protocol": "plaintext"}
    token = KafkaSettings(security="sasl_ssl", mechanism="OAUTHBEARER", options={"sasl.oauthbearer.method": "oidc"})
    assert security(token) == {"security.protocol": "sasl_ssl", "sasl.mechanism": "OAUTHBEARER"}
    assert token.options == {"sasl.oauthbearer.method": "oidc"}
    secret = KafkaSettings(
        security="ssl", key=tmp_path / "key", certificate=tmp_path / "pem", key_password=SecretStr("s3cret")
    )
    assert security(secret)["ssl.key.password"] == "s3cret"
    assert "s3cret" not in repr(secret)
    with pytest.raises((UsageError, ValueError), match="ESPER_KAFKA_USERNAME"):
        KafkaSettings(security="sasl_ssl", mechanism="PLAIN")


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("ESPER_REGISTRY", "http://user:s3cret@127.0.0.1:1", "ESPER_REGISTRY_USERNAME and _PASSWORD"),
        ("ESPER_LOG", "kafka://user:s3cret@127.0.0.1:1", "kafka://HOST:PORT"),
        ("ESPER_KAFKA_OPTIONS", '{"no.such.option": "1"}', "ESPER_KAFKA_.*no.such.option"),
        ("ESPER_KAFKA_OPTIONS", '{"sasl.password": "s3cret"', "ESPER_KAFKA_"),
    ],
)
def test_settings_that_are_none_are_one_line_without_a_secret(
    name: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ESPER_LOG", "kafka://127.0.0.1:1")
    monkeypatch.setenv("ESPER_REGISTRY", "http://127.0.0.1:1")
    monkeypatch.setenv(name, value)
    assert main(["runs"]) == 2
    said = capsys.readouterr().err
    assert re.search(told, said)
    assert said.count("\n") == 1
    assert "s3cret" not in said


def test_every_topic_has_someone_who_may_read_it() -> None:
    read = {right.name for rights in RIGHTS.values() for right in rights if "READ" in right.operations}
    assert TOPICS.keys() <= read
    written = {right.name: role for role in ROLES for right in RIGHTS[role] if "WRITE" in right.operations}
    assert [role for role in ROLES for right in RIGHTS[role] if right.name == RUNS and "WRITE" in right.operations] == [
        "trainer"
    ]
    assert written[SIGNALS] != "trainer"
