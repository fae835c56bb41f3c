"""The table of topics: what follows from its rows is right, and they agree with what is elsewhere."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from esper.events import Content, topics
from esper.events.encoding.evolution import names, topic_of
from esper.events.encoding.schemas import name_of
from esper.events.topics import ANALYSED, EVENTS, ROLES, TOPICS, Topic
from tests.support.paths import ROOT

CREATED = re.findall(
    r"^CREATE TABLE (\w+)",
    "\n".join(path.read_text() for path in sorted((ROOT / "esper/nissa/tables/migrations").glob("*.sql"))),
    re.MULTILINE,
)
each_topic = pytest.mark.parametrize("topic", TOPICS.values(), ids=lambda topic: topic.name)


def test_no_two_rows_are_of_one_topic() -> None:
    assert len(TOPICS) == len(topics._TABLE)


def test_each_name_is_a_rows() -> None:
    assert list(TOPICS) == [
        topics.RUNS,
        topics.SIGNALS,
        topics.ASSETS,
        topics.TELEMETRY,
        topics.EXCLUSIONS,
        topics.POLICIES,
        topics.INDEX,
        topics.DEADLETTER,
    ]


def test_each_event_is_of_exactly_one_topic() -> None:
    placed = [content for topic in TOPICS.values() for content in topic.contents]
    assert sorted(map(name_of, placed)) == sorted(map(name_of, get_args(Content)))


@each_topic
def test_an_events_avro_namespace_is_its_topics_name(topic: Topic) -> None:
    assert {name_of(content).rpartition(".")[0] for content in topic.contents} <= {topic.name}


def test_each_recorded_type_is_written_to_the_topic_that_has_it() -> None:
    placed = {name_of(content): topic.name for topic in TOPICS.values() for content in topic.contents}
    assert {name: topic_of(name) for name in names()} == {**placed, "esper.RunIndex": topics.INDEX}


def test_the_topics_that_hold_events_and_those_that_are_analysed_follow_from_the_rows() -> None:
    assert set(TOPICS) - set(EVENTS) == {topics.POLICIES, topics.INDEX}
    assert set(EVENTS) - set(ANALYSED) == {topics.EXCLUSIONS}
    assert set(ANALYSED) <= set(EVENTS)


def test_what_could_not_be_read_is_read_last() -> None:
    assert EVENTS[-1] == ANALYSED[-1] == topics.DEADLETTER


@each_topic
def test_the_tables_that_a_topic_fills_are_made_and_the_one_that_says_what_is_done_is_last(topic: Topic) -> None:
    assert [table for table in topic.tables if table not in CREATED] == []
    assert len(set(topic.tables)) == len(topic.tables)
    assert topic.tables[-1:] in ((), ("events",), ("telemetry_batches",))


@each_topic
def test_a_topics_rights_are_of_roles_that_there_are(topic: Topic) -> None:
    assert set(topic.rights) <= set(ROLES)
    assert {operation for of in topic.rights.values() for operation in of} == {"READ", "WRITE"}


@pytest.mark.parametrize("role", ROLES)
def test_each_role_reads_something_and_writes_something(role: str) -> None:
    given = {operation for topic in TOPICS.values() for operation in topic.rights.get(role, ())}
    assert given == {"READ", "WRITE"}


def test_each_topic_is_written_by_those_whose_part_it_is() -> None:
    def writers(topic: Topic) -> list[str]:
        return [role for role in ROLES if "WRITE" in topic.rights.get(role, ())]

    assert {name: writers(topic) for name, topic in TOPICS.items()} == {
        topics.RUNS: ["trainer"],
        topics.SIGNALS: ["worker", "operator"],
        topics.ASSETS: ["trainer", "worker"],
        topics.TELEMETRY: ["trainer"],
        topics.EXCLUSIONS: ["arbiter"],
        topics.POLICIES: ["operator"],
        topics.INDEX: ["trainer"],
        topics.DEADLETTER: list(ROLES),
    }


def test_what_a_run_rests_on_is_kept_for_ever() -> None:
    assert {name: topic.days for name, topic in TOPICS.items() if topic.days is not None} == {
        topics.SIGNALS: 90,
        topics.TELEMETRY: 7,
        topics.DEADLETTER: 30,
    }
    assert [name for name, topic in TOPICS.items() if topic.compacted] == [topics.INDEX]
