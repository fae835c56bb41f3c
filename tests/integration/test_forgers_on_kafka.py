"""What only a log on Kafka can be told falsely: which epoch a run has come to, and a record once more."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from esper.errors import LogRefused
from esper.events.topics import INDEX, RUNS
from esper.log import open_log
from esper.log.exclusions import run_events
from esper.log.kafka.frames import head
from esper.log.kafka.index import RunIndex, index_bytes, index_schema
from esper.log.kafka.log import KafkaLog
from esper.log.partitions import partition_of
from tests.support.logs.forging import plant
from tests.support.logs.runlog import LOG_URL, history
from tests.support.runs.training import Loop

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def url(kafka_log_url: Callable[[], str], tmp_path: Path) -> str:
    """A log with a run that crashed at step 14, of the home ``tmp_path``."""
    url = kafka_log_url()
    (tmp_path / LOG_URL).write_text(url)
    loop = Loop(tmp_path, epochs=3, more={"log": url})
    loop.whole()
    loop.begin()
    loop.go(until=14)
    return url


@pytest.mark.parametrize("number", [0, -1])
def test_a_repeated_record_changes_nothing(number: int, url: str, tmp_path: Path) -> None:
    with closing(open_log(url)) as log:
        plant(log, [entry for entry, _ in run_events(log, "run")][number].record)
    loop = Loop(tmp_path, epochs=3, more={"log": url})
    loop.resume()
    loop.go()
    assert history(tmp_path, "run") == history(tmp_path, "whole")


@pytest.mark.parametrize("epoch", [2**40, 2**63 - 2])
def test_an_epoch_that_no_writer_has_come_to_is_refused_before_anything_is_written(
    epoch: int, url: str, tmp_path: Path
) -> None:
    with closing(open_log(url)) as log:
        assert isinstance(log, KafkaLog)
        known = log.index.of("run")
        assert isinstance(known, RunIndex)
        real, producer = log.writable(INDEX), log.cluster.producer(linger_ms=0)
        value = head(log.registry.id_of(real, index_schema())) + index_bytes(replace(known, epoch=epoch))
        producer.produce(real, value, b"run", partition=partition_of("run"))
        assert producer.flush(30) == 0
        before = len(list(log.read(RUNS, key="run")))
    with pytest.raises(LogRefused, match="the count was changed; copy the run to a new log, which counts anew"):
        Loop(tmp_path, epochs=3, more={"log": url}).resume()
    with closing(open_log(url)) as log:
        assert len(list(log.read(RUNS, key="run"))) == before
