"""Programs that are not ours read the log and command a run: confluent-kafka's own (de)serialisers, and kcat."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from esper.connections import registry_settings
from esper.events import Envelope
from esper.events.encoding.codec import to_json
from esper.events.runs import BoundaryReached, CommandAccepted, CommandRejected, RunPaused
from esper.events.signals import CommandIssued
from esper.events.topics import ASSETS, RUNS, SIGNALS
from esper.log import open_log
from esper.log.kafka.address import Address
from esper.log.ordering import in_order
from esper.log.records import event_of, record_of
from tests.support.command import spawn, wait_until
from tests.support.paths import PROGRAMS
from tests.support.runs.training import Loop, contents

CLIENT = PROGRAMS / "stock_client.py"


def client(url: str, verb: str, topic: str, *words: str) -> list[str]:
    """The lines that the stock client prints; it runs where it can see nothing of ours."""
    address = Address.parse(url)
    command = [sys.executable, "-I", str(CLIENT), address.servers, registry_settings().url, verb]
    done = subprocess.run(
        [*command, address.named(topic), *words], capture_output=True, text=True, check=False, timeout=120, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@dataclass
class Paused:
    """A run that was training until a stock client asked it to pause."""

    url: str
    command: str
    output: str


@pytest.fixture(scope="module")
def paused(shared_brokers: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paused]:
    from tests.support.services.brokers import new_log

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ESPER_REGISTRY", shared_brokers.registry)
        url = new_log(shared_brokers.addresses)
        subprocess.run([sys.executable, "-m", "esper", "topics", "init", "--log", url], check=True, capture_output=True)
        home = tmp_path_factory.mktemp("home")
        quick = ("--set", "boundary.steps=10", "--set", "policy.warmup=10")
        trainer = spawn(home, "train", "--task", "digits", "--steps", 100000, "--run-id", "live", "--log", url, *quick)
        try:
            with closing(open_log(url)) as log:
                wait_until(lambda: _boundaries(log) > 2 or trainer.poll() is not None, "the third boundary", 120)
            (command,) = client(url, "command", SIGNALS, "live", "pause", "1")
            output, errors = trainer.communicate(timeout=120)
        finally:
            trainer.kill()
            trainer.communicate()
        assert trainer.returncode == 0, errors
        yield Paused(url, command, output + errors)


def _boundaries(log: Any) -> int:
    return sum(entry.record.schema.name == "esper.runs.BoundaryReached" for entry in log.read(RUNS, key="live"))


def test_the_client_imports_nothing_of_ours() -> None:
    imported = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse(CLIENT.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([each.name for each in node.names] if isinstance(node, ast.Import) else [node.module or ""])
    }
    assert imported - set(sys.stdlib_module_names) == {"confluent_kafka"}


def test_a_live_trainer_obeys_a_command_that_a_stock_client_wrote(paused: Paused) -> None:
    with closing(open_log(paused.url)) as log:
        events = [event for _, event in in_order(log.read(RUNS, key="live"))]
    (accepted,) = (event for event in events if isinstance(event.content, CommandAccepted))
    assert isinstance(accepted.content, CommandAccepted)
    assert (str(accepted.content.command), accepted.content.issuer) == (paused.command, "a stock client")
    assert isinstance(events[-1].content, RunPaused)
    assert "paused" in paused.output


def test_a_stock_client_decodes_every_event(paused: Paused) -> None:
    with closing(open_log(paused.url)) as log:
        for topic in (RUNS, SIGNALS, ASSETS):
            ours = {str(entry.position): (entry.record, event_of(entry)) for entry in log.read(topic)}
            theirs = {each["position"]: each for each in map(json.loads, client(paused.url, "read", topic))}
            prefix = Address.parse(paused.url).named(topic).removesuffix(topic)
            assert {position.removeprefix(prefix) for position in theirs} == set(ours)
            assert ours
            for position, (record, event) in ours.items():
                seen = theirs[prefix + position]
                assert seen["key"] == record.key
                assert seen["headers"].items() >= {name: value.decode() for name, value in record.headers}.items()
                assert seen["value"].pop("envelope")["id"] == str(event.envelope.id)
                said = to_json(event)
                link = seen["value"].pop("link", None)
                assert (link is not None) is (event.link is not None)
                assert seen["value"].keys() == said.keys()
                assert {name for name in said if seen["value"][name] != said[name]} <= {"tensors"}  # bytes


def _kcat() -> str:
    found = shutil.which("kcat") or shutil.which("kafkacat")
    if found is None:
        if os.environ.get("ESPER_CI"):
            pytest.fail("kcat is not installed; apt-get install kcat", pytrace=False)
        pytest.skip("kcat is not installed")
    return found


def test_kcat_shows_keys_headers_and_offsets(paused: Paused) -> None:
    address = Address.parse(paused.url)
    command = [_kcat(), "-b", address.servers, "-C", "-t", address.named(RUNS), "-e", "-q", "-J"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    told = [json.loads(line) for line in done.stdout.decode(errors="replace").split("\n") if line]
    with closing(open_log(paused.url)) as log:
        entries = list(log.read(RUNS))
    assert [(each["partition"], each["offset"], each["key"]) for each in told] == [
        (entry.position.partition, entry.position.offset, entry.record.key) for entry in entries
    ]
    for each, entry in zip(told, entries, strict=True):
        headers = dict(zip(each["headers"][::2], each["headers"][1::2], strict=True))
        assert headers["ce_type"] == entry.record.schema.name
        assert headers["ce_id"] == dict(entry.record.headers)["ce_id"].decode()
        assert headers["esper_sequence"] == str(entry.record.sequence)


def test_a_command_whose_id_is_not_that_of_its_issuer_and_nonce_is_refused_with_the_right_one(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=1)
    loop.begin()
    content = CommandIssued(command="stop", seed=None, issuer="somebody", nonce="1", reason="")
    envelope = Envelope(id=uuid4(), time=datetime.now(UTC), writer="somebody")
    with closing(open_log(f"sqlite:///{tmp_path}/log.db")) as log:
        log.signal(replace(record_of(SIGNALS, "run", envelope, content), headers=()))
    wait_until(lambda: not loop.run._trainer.inbox._arrived.empty(), "the command's arrival")  # type: ignore[union-attr]
    loop.go()
    (rejected,) = contents(tmp_path, CommandRejected)
    assert rejected.command == envelope.id
    assert "its id is not that of its issuer and nonce in this run" in rejected.reason
    assert contents(tmp_path, BoundaryReached)
    assert loop.run.status == "completed"
