"""The commands on a log on Kafka: its registry, topics, brokers that are away, transactions of others."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import Producer

from esper.cli.operating.log import _commands
from esper.cli.options import Place
from esper.dev.jars import fetched
from esper.events.topics import ASSETS, RUNS
from esper.log import open_log
from esper.log.kafka import open_kafka
from esper.log.kafka.address import Address
from esper.log.kafka.admin.open_transactions import HANGING, OpenTransaction
from esper.log.partitions import partition_of
from esper.log.port import Position
from tests.support.command import Esper, ending
from tests.support.logs.copying import records
from tests.support.runs.histories import History
from tests.support.services.brokers import Brokers, JarBrokers

DEAD = "kafka://127.0.0.1:1"


@pytest.fixture
def url(kafka_log_url: Callable[[], str]) -> str:
    return kafka_log_url()


@pytest.fixture
def esper(capsys: pytest.CaptureFixture[str]) -> Esper:
    return ending(capsys)


def findings(esper: Esper, url: str) -> dict[str, dict[str, str]]:
    return {each["name"]: each for each in esper("doctor", "--json", "--log", url).json["findings"]}


@pytest.fixture
def quick_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    from esper.cli.operating import doctor

    monkeypatch.setattr(doctor, "_LOOKS", (doctor._registry,))


# The registry


def test_a_registry_at_a_wrong_path_is_no_empty_one(url: str, esper: Esper, monkeypatch: pytest.MonkeyPatch) -> None:
    assert esper("schemas", "check", "--registry", "--log", url).code == 0
    wrong = os.environ["ESPER_REGISTRY"].replace("/apis/ccompat/v7", "/nowhere")
    monkeypatch.setenv("ESPER_REGISTRY", wrong)
    result = esper("schemas", "check", "--registry", "--log", url)
    assert (result.code, result.out, result.err.count("\n")) == (1, "", 1)
    assert f"schema registry {wrong}: " in result.err
    assert ".../apis/ccompat/v7" in result.err


@pytest.mark.usefixtures("quick_doctor")
def test_doctor_asks_the_registry(url: str, esper: Esper, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = os.environ["ESPER_REGISTRY"]
    found = findings(esper, url)["registry"]
    assert found["level"] == "ok"
    assert found["found"].startswith(f"{registry}: ")
    monkeypatch.setenv("ESPER_REGISTRY", registry.replace("/apis/ccompat/v7", ""))
    assert "answered 404" in findings(esper, url)["registry"]["found"]


@pytest.mark.usefixtures("quick_doctor")
def test_doctor_names_a_registry_that_is_away_or_not_set(esper: Esper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPER_REGISTRY", "http://127.0.0.1:1")
    found = findings(esper, DEAD)["registry"]
    assert found["level"] == "broken"
    assert "http://127.0.0.1:1: it does not answer" in found["found"]
    monkeypatch.delenv("ESPER_REGISTRY")
    found = findings(esper, DEAD)["registry"]
    assert found["level"] == "broken"
    assert "set ESPER_REGISTRY" in found["found"]
    assert findings(esper, "sqlite:///nowhere.db") == {}


# Brokers that are away, topics that are missing


def test_train_and_resume_say_that_no_broker_answers_before_they_import_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESPER_REGISTRY", "http://127.0.0.1:1")
    processes = [
        subprocess.Popen(
            [sys.executable, "-X", "importtime", "-m", "esper", *words, "--log", DEAD, "--home", str(tmp_path)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for words in (["train", "--task", "digits"], ["resume", "run"])
    ]
    for process in processes:
        _, said = process.communicate(timeout=60)
        told = [line for line in said.splitlines() if not line.startswith("import time:")]
        assert process.returncode == 1
        assert len(told) == 1
        assert "127.0.0.1:1: no Kafka broker answers there" in told[0]
        assert "suppressed" not in told[0]
        assert "| torch" not in re.sub(" +", " ", said), "it takes longer than looking for a broker"


def test_train_says_that_a_topic_is_missing_before_it_reads_any_data(
    url: str, esper: Esper, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(name: str) -> None:
        raise AssertionError("the task was loaded first")

    monkeypatch.setattr("esper.cli.training.train.load_task", never)
    result = esper("train", "--task", "digits", "--log", f"{url}-none")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "run `esper topics init --log kafka://" in result.err


@pytest.fixture
def two_runs(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/source/log.db"
    log = open_log(url)
    for run_id in ("a", "b"):
        log.open_writer(run_id).append([replace(record, key=run_id) for record in records(History())])
    log.close()
    return url


def test_a_copy_to_a_log_without_topics_says_so_once(url: str, two_runs: str, esper: Esper) -> None:
    result = esper("copy", two_runs, f"{url}-none")
    assert (result.code, result.out, result.err.count("\n")) == (1, "", 1)
    assert "run `esper topics init --log kafka://" in result.err
    told = esper("copy", two_runs, f"{url}-none", "--json").json["runs"]
    assert [run["run_id"] for run in told] == ["a"]


# Transactions of others


@pytest.fixture
def stranger(url: str) -> Iterator[str]:
    """The key of a record in the open transaction of a program that is no trainer."""
    address = Address.parse(url)
    producer = Producer(
        {
            "bootstrap.servers": address.servers,
            "transactional.id": f"another-program-{address.prefix}",
            "partitioner": "murmur2_random",
        }
    )
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(address.named(ASSETS), b"x", b"its key")
    assert producer.flush(20) == 0
    yield "its key"
    producer.purge()


def test_log_check_gives_kafkas_own_command_for_a_transaction_of_another_program(
    url: str, stranger: str, esper: Esper, shared_brokers: Brokers
) -> None:
    address = Address.parse(url)
    result = esper("log", "check", "--log", url)
    about, hint = result.out.splitlines()
    assert result.code == 0
    assert about.startswith(f"esper.assets/{partition_of(stranger)}:0: open for ")
    assert f"key {stranger}; 1 offsets are hidden" in about
    command = (
        f"kafka-transactions.sh --bootstrap-server {address.servers} abort --topic {address.named(ASSETS)} "
        f"--partition {partition_of(stranger)} --start-offset 0"
    )
    assert hint == f"  {command}"
    if isinstance(shared_brokers, JarBrokers):
        tool = ["java", "-Xmx128m", "-cp", f"{fetched().kafka}/*", "org.apache.kafka.tools.TransactionsCommand"]
        subprocess.run([*tool, *shlex.split(command)[1:]], capture_output=True, timeout=60, check=True)
        assert "no transaction is open" in esper("log", "check", "--log", url).out


def test_a_runs_transaction_gets_kafkas_own_command_too_once_it_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPER_REGISTRY", "http://127.0.0.1:1")
    log, place = open_kafka(f"{DEAD}/team"), Place(".esper", f"{DEAD}/team", False)
    found = OpenTransaction(Position(RUNS, 3, 120), 2, "run", "run", "/esper/trainer", HANGING - 1)
    ending = f"esper log check --log {DEAD}/team --end run"
    assert _commands(log, place, found, "run") == [ending]
    assert _commands(log, place, replace(found, seconds=HANGING + 1), "run") == [
        ending,
        "kafka-transactions.sh --bootstrap-server 127.0.0.1:1 abort --topic team.esper.runs --partition 3 "
        "--start-offset 120",
    ]
