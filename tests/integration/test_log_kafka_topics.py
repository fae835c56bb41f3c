"""The topics of a log on Kafka: made once, told where they differ, refused where they cannot serve."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType

from esper.cli.main import main
from esper.errors import LogError
from esper.events.encoding.schemas import schema_of
from esper.events.runs import AlertRaised
from esper.events.topics import INDEX, RUNS, SIGNALS, TOPICS
from esper.log.kafka import open_kafka
from esper.log.kafka.address import Address
from esper.log.kafka.admin.topics import Registered, configuration, drift, make_topics, register_schemas
from esper.log.kafka.log import KafkaLog
from esper.log.port import Record

SCHEMA = schema_of(AlertRaised)


@pytest.fixture
def url(kafka_log_url: Callable[[], str]) -> str:
    return kafka_log_url()


@pytest.fixture
def log(url: str) -> Iterator[KafkaLog]:
    with closing(open_kafka(url)) as log:
        yield log


def test_topics_init_makes_what_is_missing_and_says_what_differs(
    url: str, log: KafkaLog, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["topics", "init", "--log", url]) == 0
    topics, schemas, *_ = capsys.readouterr().out.splitlines()
    assert topics == "topics made: none, all were there"
    count = int(schemas.removeprefix("schemas registered: "))
    assert count > 20
    assert make_topics(log) == drift(log) == []
    resource = ConfigResource(ResourceType.TOPIC, log.address.named(SIGNALS))
    resource.add_incremental_config(ConfigEntry("retention.ms", "1000", incremental_operation=AlterConfigOpType.SET))
    for future in log.cluster.admin.incremental_alter_configs([resource]).values():
        future.result()
    assert main(["topics", "init", "--log", url]) == 1
    told = capsys.readouterr()
    assert told.out.splitlines()[1] == f"schemas registered: none, all {count} were there"
    assert f"{log.address.named(SIGNALS)} has retention.ms=1000, not 7776000000" in told.err
    assert "kafka-configs.sh" in told.err


def test_the_topics_are_made_as_the_design_says(log: KafkaLog) -> None:
    described = (
        configuration(TOPICS[INDEX])["cleanup.policy"],
        configuration(TOPICS[RUNS])["retention.ms"],
        configuration(TOPICS[SIGNALS])["retention.ms"],
    )
    assert described == ("compact", "-1", str(90 * 24 * 3600 * 1000))
    assert drift(log) == []
    made, again = register_schemas(log), register_schemas(log)
    assert made.new > 20
    assert (made.there, again) == (0, Registered(new=0, there=made.new))


def test_a_topic_with_other_partitions_is_refused(kafka_log_url: Callable[[], str]) -> None:
    elsewhere = Address.parse(kafka_log_url())
    with closing(open_kafka(f"{elsewhere.url}-wrong")) as log:
        futures = log.cluster.admin.create_topics([NewTopic(log.address.named(RUNS), 5, 1)])
        for future in futures.values():
            future.result()
        make_topics(log)
        for use in (lambda: log.open_writer("run"), lambda: log.read(RUNS)):
            with pytest.raises(LogError, match="has 5 partitions, but needs 12"):
                use()
        assert [line for line in drift(log) if "5 partitions, not 12" in line]


def test_a_missing_topic_names_the_command_that_makes_it(kafka_log_url: Callable[[], str]) -> None:
    elsewhere = Address.parse(kafka_log_url())
    with closing(open_kafka(f"{elsewhere.url}-none")) as log:
        for use in (
            lambda: log.open_writer("run"),
            lambda: log.read(RUNS, "run"),
            lambda: next(log.follow(RUNS, "run", stop=threading.Event())),
            lambda: log.signal(Record(SIGNALS, "run", SCHEMA, b"")),
        ):
            with pytest.raises(LogError, match=r"is missing on .*; run `esper topics init --log kafka://"):
                use()
        assert list(log.read("another.topic")) == []
