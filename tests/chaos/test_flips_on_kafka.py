"""Bits flipped in what a broker has on disk: a client that reads it says so, and never takes it for the run's."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from esper.events.topics import RUNS
from esper.log.kafka import open_kafka
from esper.log.kafka.admin.topics import make_topics
from esper.log.partitions import partition_of
from tests.support.command import runner
from tests.support.runs.training import Loop
from tests.support.services.brokers import Brokers

pytestmark = pytest.mark.usefixtures("one_thread")
FLIPS = 12


def checked(data: bytes) -> list[int]:
    """The places of a log segment's bytes that a batch's checksum is of, and those of the checksums (KIP-98): offset,
    length and the leader's epoch, which begin a batch, are the broker's own."""
    places: list[int] = []
    start = 0
    while start + 61 <= len(data) and (length := int.from_bytes(data[start + 8 : start + 12], "big")):
        places.extend(range(start + 16, start + 12 + length))
        start += 12 + length
    return places


def test_a_bit_that_is_flipped_in_a_brokers_file_is_told_in_words_and_nothing_else_is(
    own_cluster: Callable[..., Brokers], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = own_cluster(1)
    folder = getattr(cluster, "home", None)
    if folder is None:
        pytest.skip("the broker's files lie in a container")
    url = f"kafka://{cluster.addresses}/flips"
    with closing(open_kafka(url)) as log:
        make_topics(log)
    loop = Loop(tmp_path, epochs=3, more={"log": url})
    loop.begin()
    loop.go()
    esper = runner(tmp_path, capsys)
    assert [esper(*words, "--log", url).code for words in (("verify", "run"), ("check",))] == [0, 0]
    (path,) = folder.rglob(f"flips.{RUNS}-{partition_of('run')}/*.log")
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    random_ = random.Random(seed)
    covered = checked(path.read_bytes())
    for _ in range(FLIPS):
        place, bit = random_.choice(covered), 1 << random_.randrange(8)
        with path.open("r+b") as file:
            file.seek(place)
            (before,) = file.read(1)
            file.seek(place)
            file.write(bytes([before ^ bit]))
        found = [esper(*words, "--log", url) for words in (("verify", "run"), ("check",))]
        with path.open("r+b") as file:
            file.seek(place)
            file.write(bytes([before]))
        said = f"{place} of {covered[-1]}: {found}"
        assert all("error in Esper" not in each.err and "Traceback" not in each.err for each in found), said
        assert any(each.code for each in found), said
    assert [esper(*words, "--log", url).code for words in (("verify", "run"), ("check",))] == [0, 0]
