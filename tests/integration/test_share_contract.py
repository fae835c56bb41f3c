"""What every adapter has to do for those who share a log's partitions; SQLite and Kafka, the same tests."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import IO

import pytest

from esper.events.topics import PARTITIONS, SIGNALS, TELEMETRY
from esper.log import open_log
from esper.log.kafka.log import KafkaLog
from esper.log.port import Log, Share
from tests.support.logs.share_child import applied
from tests.support.services.adapters import ROOT
from tests.support.services.brokers import Brokers, new_log

TOPICS = (SIGNALS, TELEMETRY)
ALL = {topic: set(range(PARTITIONS)) for topic in TOPICS}
SOON = 30.0
"""Seconds in which others take over what a process had that is gone."""


class Member:
    """A share and what it has had so far."""

    def __init__(self, share: Share) -> None:
        self.share = share
        self.has: dict[str, set[int]] = {}

    def poll(self, wait: float = 0.05) -> None:
        applied(self.has, self.share.poll(wait))


def places(member: Member) -> set[tuple[str, int]]:
    return {(topic, partition) for topic, partitions in member.has.items() for partition in partitions}


def polled(members: list[Member], until: Callable[[], bool], patience: float = SOON) -> None:
    """Poll them in turn; nobody has what another has, at any time."""
    deadline = time.monotonic() + patience
    while not until():
        assert time.monotonic() < deadline, [member.has for member in members]
        for member in members:
            member.poll()
            had = [places(each) for each in members]
            assert sum(map(len, had)) == len(set().union(*had))


@contextmanager
def child(url: str, group: str) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """A process that has all partitions, and what it says from then on: whether it is sure, ten times a second."""
    command = [sys.executable, "-m", "tests.support.logs.share_child", url, group, *TOPICS]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert {topic: set(each) for topic, each in json.loads(process.stdout.readline()).items()} == ALL
            yield process, process.stdout
        finally:
            process.kill()


def test_who_is_alone_has_every_partition_and_is_sure_of_it(log: Log) -> None:
    with log.share(TOPICS, "group") as share:
        assert not share.sure()
        member = Member(share)
        polled([member], lambda: member.has == ALL)
        assert share.sure()
        assert not share.poll(0.2)


def test_no_partition_is_had_by_two_and_none_by_nobody(log: Log) -> None:
    with log.share(TOPICS, "group") as first:
        one = Member(first)
        polled([one], lambda: one.has == ALL)
        with log.share(TOPICS, "group") as second:
            other = Member(second)
            wanted = PARTITIONS if isinstance(log, KafkaLog) else 0
            polled([one, other], lambda: len(places(other)) == wanted and len(places(one)) == 2 * PARTITIONS - wanted)
        polled([one], lambda: one.has == ALL)


def test_what_one_gives_back_the_other_takes_at_once(log: Log) -> None:
    first = log.share(TOPICS, "group")
    one, other = Member(first), Member(log.share(TOPICS, "group"))
    with other.share:
        with first:
            polled([one], lambda: one.has == ALL)
            polled([one, other], lambda: first.sure())
        began = time.monotonic()
        polled([other], lambda: other.has == ALL)
        assert time.monotonic() - began < 10


def test_groups_do_not_share_with_each_other(log: Log) -> None:
    with log.share(TOPICS, "group-a") as first, log.share(TOPICS, "group-b") as second:
        for member in (Member(first), Member(second)):
            polled([member], lambda member=member: member.has == ALL)


def test_what_a_killed_process_had_is_taken_soon(url: str, log: Log) -> None:
    with child(url, "group") as (process, _), log.share(TOPICS, "group") as share:
        process.kill()
        process.wait()
        member = Member(share)
        polled([member], lambda: member.has == ALL)


def test_a_frozen_process_learns_first_that_another_took_what_it_had(url: str, log: Log) -> None:
    """Where nobody can take it, it goes on."""
    kept = url.startswith("sqlite")
    with child(url, "group") as (process, said), log.share(TOPICS, "group") as share:
        process.send_signal(signal.SIGSTOP)
        member, until = Member(share), time.monotonic() + (2 if kept else SOON)
        while member.has != ALL and time.monotonic() < until:
            member.poll(0.5)
        woken = time.monotonic()
        process.send_signal(signal.SIGCONT)
        sure = next(sure for asked, sure in map(json.loads, said) if asked > woken)
        if kept:
            assert (member.has, sure) == ({}, True)
        else:
            assert (member.has, sure) == (ALL, False)
            assert json.loads(said.readline()) == {topic: [] for topic in TOPICS}


@pytest.mark.slow
def test_without_brokers_nobody_is_sure_and_later_all_goes_on(
    own_cluster: Callable[..., Brokers], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Kafka. Nothing is raised meanwhile, and no call takes for ever."""
    monkeypatch.setenv("ESPER_REGISTRY", "http://127.0.0.1:1")
    brokers = own_cluster(registry=False)
    with closing(open_log(new_log(brokers.addresses))) as log, log.share(TOPICS, "group") as share:
        member = Member(share)
        polled([member], lambda: member.has == ALL)
        brokers.kill(1)
        longest = 0.0
        while share.sure():
            assert time.monotonic() - brokers.killed_at < SOON
            began = time.monotonic()
            member.poll()
            longest = max(longest, time.monotonic() - began)
        brokers.restart(1)
        polled([member], lambda: member.has == ALL and share.sure())
        assert longest < 20
