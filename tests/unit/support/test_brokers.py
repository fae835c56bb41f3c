"""Which brokers the tests choose, and what happens when there are none."""

from __future__ import annotations

import pytest

from esper.errors import ClusterUnavailable
from tests.support.services import brokers, containers


@pytest.fixture(autouse=True)
def undecided(monkeypatch):
    monkeypatch.delenv("ESPER_TEST_BROKER", raising=False)
    monkeypatch.delenv("ESPER_CI", raising=False)
    # Without their caches, which hold what this test run decided.
    monkeypatch.setattr(brokers, "_choice", brokers._choice.__wrapped__)
    monkeypatch.setattr(brokers, "_decided", brokers._decided.__wrapped__)
    monkeypatch.setattr(brokers, "java", lambda: "java")
    monkeypatch.setattr(brokers, "maven", lambda: "mvn")


def no_image() -> containers.Images:
    raise ClusterUnavailable("there is no image")


@pytest.mark.parametrize(("answers", "kind"), [(True, "docker"), (False, "jars")])
def test_docker_comes_before_the_jars(monkeypatch, answers, kind):
    monkeypatch.setattr(containers, "answers", lambda: answers)
    assert brokers._choice()[0] == kind


def test_without_an_image_the_jars_are_used_and_the_reason_is_told(monkeypatch):
    monkeypatch.setattr(containers, "answers", lambda: True)
    monkeypatch.setattr(containers, "images", no_image)
    assert brokers._decided() == ("jars", "there is no image")


def test_a_forced_choice_does_not_give_way(monkeypatch):
    monkeypatch.setenv("ESPER_TEST_BROKER", "docker")
    monkeypatch.setattr(containers, "images", no_image)
    assert brokers._decided() == ("nothing", "there is no image")


def test_without_docker_or_java_the_reason_says_what_to_install(monkeypatch):
    def no_java() -> str:
        raise ClusterUnavailable("install Java")

    monkeypatch.setattr(containers, "answers", lambda: False)
    monkeypatch.setattr(brokers, "java", no_java)
    assert brokers._choice() == ("nothing", "no Docker daemon answers, and install Java")


def test_a_choice_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("ESPER_TEST_BROKER", "podman")
    with pytest.raises(pytest.UsageError, match="may be jars or docker"):
        brokers._choice()


def test_missing_brokers_skip_but_fail_where_nothing_may_be_skipped(monkeypatch):
    with pytest.raises(pytest.skip.Exception, match="no broker"):
        brokers.missing("no broker")
    monkeypatch.setenv("ESPER_CI", "1")
    with pytest.raises(pytest.fail.Exception, match="no broker"):
        brokers.missing("no broker")


def test_the_header_names_the_brokers_of_the_environment(monkeypatch):
    monkeypatch.setenv("ESPER_TEST_KAFKA", "host:9092")
    assert brokers.pytest_report_header() == "Kafka: the brokers at host:9092 (ESPER_TEST_KAFKA)"
