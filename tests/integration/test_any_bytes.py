"""Whatever bytes lie under any key of any topic: commands that read end in words, and other runs are as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper.events.encoding.schemas import UNKNOWN, schema_of
from esper.events.runs import BoundaryReached
from esper.events.topics import ASSETS, DEADLETTER, EXCLUSIONS, RUNS, SIGNALS, TELEMETRY
from esper.log import open_log
from esper.log.kafka.log import KafkaLog
from esper.log.partitions import partition_of
from esper.log.port import Record
from tests.support.command import runner
from tests.support.logs.forging import plant
from tests.support.logs.runlog import LOG_URL
from tests.support.runs.training import Loop

COMMANDS: tuple[tuple[str, ...], ...] = (
    ("runs",),
    ("show", "run"),
    ("events", "run"),
    ("verify", "run"),
    ("explain", "run"),
    ("compare", "run", "run"),
    ("dlq", "list"),
    ("check",),
    ("show", "KEY"),
    ("verify", "KEY"),
    ("events", "KEY"),
    ("weights", "run", "--out", "OUT"),
)
UNTOUCHED = ("show", "events", "explain")
"""Of a run that nothing was written to."""

text = st.text(max_size=12)
headers = st.lists(st.tuples(st.text(max_size=8) | st.just("ce_id"), st.binary(max_size=20)), max_size=3).map(tuple)
records = st.builds(
    Record,
    topic=st.sampled_from((RUNS, RUNS, SIGNALS, ASSETS, TELEMETRY, EXCLUSIONS, DEADLETTER)),
    key=text.filter(bool) | st.just("run"),
    schema=st.sampled_from((UNKNOWN, schema_of(BoundaryReached))),
    value=st.binary(max_size=60),
    headers=headers,
    epoch=st.none() | st.integers(0, 2**63 - 1),
    sequence=st.none() | st.integers(0, 2**63 - 1),
)


@pytest.fixture
def home(log_url_factory: Callable[[], str], tmp_path: Path) -> Iterator[Path]:
    (tmp_path / LOG_URL).write_text(log_url_factory())
    loop = Loop(tmp_path, epochs=2, more={"log": (tmp_path / LOG_URL).read_text()})
    loop.begin()
    loop.go()
    return tmp_path


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(planted=st.lists(records, min_size=1, max_size=2))
def test_commands_that_read_end_in_words_and_other_runs_are_as_they_were(
    planted: list[Record], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = (home / LOG_URL).read_text()
    esper = runner(home, capsys)
    before = {name: esper(name, "run", "--log", url).out for name in UNTOUCHED}
    touched = any(record.key == "run" for record in planted)
    log = open_log(url)
    for record in planted:
        plant(log, record)
    log.close()
    key = planted[0].key
    for words in COMMANDS:
        given_ = [{"KEY": key, "OUT": str(home / "out.safetensors")}.get(word, word) for word in words]
        found = esper(*given_, "--log", url)
        assert found.code in (0, 1, 2), words
        assert "error in Esper" not in found.err, (words, found.err)
        assert "Traceback" not in found.err + found.out, words
        if words[0] in UNTOUCHED and words[1] == "run" and not touched:
            assert (found.code, found.out) == (0, before[words[0]]), (words, found.err)


def test_messages_on_kafka_without_key_or_value_or_with_a_key_that_is_no_text_hide_no_run(
    kafka_log_url: Callable[[], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = kafka_log_url()
    loop = Loop(tmp_path, epochs=2, more={"log": url})
    loop.begin()
    loop.go()
    log = open_log(url)
    assert isinstance(log, KafkaLog)
    producer = log.cluster.producer(linger_ms=0)
    esper = runner(tmp_path, capsys)
    for key, value in product((None, b"", b"\xff\xfe", b"run\x00"), (None, b"", b"hello")):
        for topic in (RUNS, SIGNALS, ASSETS, EXCLUSIONS, DEADLETTER, TELEMETRY):
            producer.produce(log.writable(topic), value, key, partition=partition_of("run"))
        assert producer.flush(30) == 0
        for words in (("runs",), ("show", "run"), ("verify", "run"), ("dlq", "list"), ("check",)):
            found = esper(*words, "--log", url)
            assert "error in Esper" not in found.err, (key, value, words, found.err)
            if words[0] in ("show", "verify"):
                assert found.code == 0, (key, value, words, found.err)
        assert " completed " in esper("runs", "--log", url).out
    log.close()
