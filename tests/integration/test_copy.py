"""A run goes from log to log, embedded or on Kafka, and is the same run there."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from esper.errors import LogError, Quarantined, RunExists, RunNotFound
from esper.events.assets import BlueprintRegistered, KernelCompiled, KernelEvaluated, KernelRequested
from esper.events.encoding.codec import _CLASSES
from esper.events.ids import kernel_seed
from esper.events.runs import Evidence
from esper.events.signals import CommandIssued
from esper.events.topics import ASSETS, RUNS, SIGNALS
from esper.log import copy as copying
from esper.log import open_log
from esper.log.copy import copy_run
from esper.log.port import Log, Position, Record
from esper.log.records import asset_record, signal_record
from tests.support.command import Esper, Result, ending
from tests.support.logs.copying import command, held, logs, records, urls, write
from tests.support.logs.foreign import inject
from tests.support.logs.records import record_of_event
from tests.support.logs.runlog import LOG_URL, history
from tests.support.runs.histories import BLUEPRINTS, RUN, TIME, History, simulate
from tests.support.runs.training import Loop

__all__ = ["logs", "urls"]  # fixtures


@pytest.fixture
def esper(capsys: pytest.CaptureFixture[str]) -> Esper:
    return ending(capsys)


def a_run() -> History:
    """A run of several epochs, with seeds."""
    history = simulate(random.Random(7), 40)
    assert history.epoch > 1
    assert history.state.seeds
    return history


def test_a_run_is_the_same_in_another_log_and_its_writers_go_on_there(logs: tuple[Log, Log]) -> None:
    source, destination = logs
    history = a_run()
    write(source, records(history))
    copied = copy_run(source, destination, RUN)
    assert (copied.events, copied.there) == (history.state.sequence, 0)
    assert held(destination, RUNS, RUN) == held(source, RUNS, RUN) != []
    writer = destination.open_writer(RUN)
    assert writer.sequence == history.state.sequence
    assert writer.epoch > history.epoch


def test_a_copy_that_is_repeated_copies_only_what_is_new(logs: tuple[Log, Log]) -> None:
    source, destination = logs
    history = History()
    history.boundary(10)
    write(source, records(history))
    source.signal(command("1"))
    copy_run(source, destination, RUN)
    before, signals = len(history.events), held(destination, SIGNALS)
    again = copy_run(source, destination, RUN)
    assert (again.events, again.there, again.signals, again.assets) == (0, before, 0, 0)
    history.resume(2)
    history.boundary(20)
    source.open_writer(RUN).append(records(history)[before:])
    source.signal(command("2"))
    more = copy_run(source, destination, RUN)
    assert (more.events, more.there, more.signals) == (2, before, 1)
    assert held(destination, RUNS) == held(source, RUNS)
    assert held(destination, SIGNALS) == held(source, SIGNALS) != signals


def test_signals_to_the_run_and_the_assets_that_it_refers_to_go_with_it(logs: tuple[Log, Log]) -> None:
    source, destination = logs
    history = History(seed=3)
    history.boundary(10)
    seed = history.grown("a", 10, "TRAINING")
    kernel = f"kernel of {seed}"
    write(source, records(history))
    assets = [
        asset_record(content, writer="test", time=TIME)
        for content in (
            *(_registered(each) for each in (*BLUEPRINTS, "unused@333333333333")),
            KernelRequested(blueprint=BLUEPRINTS[0], kind="Linear", dims=(8, 8), seed=kernel_seed(3, seed)),
            KernelRequested(blueprint=BLUEPRINTS[0], kind="Linear", dims=(8, 8), seed=12345),
            *(_compiled(each) for each in (kernel, "another run's")),
            *(_evaluated(each) for each in (kernel, "another run's")),
        )
    ]
    for asset in assets:
        source.signal(asset)
    others = signal_record(
        "other", CommandIssued(command="stop", seed=None, issuer="t", nonce="1", reason=""), writer="test", time=TIME
    )
    for signal in (command("1"), others):
        source.signal(signal)
    copied = copy_run(source, destination, RUN)
    assert (copied.signals, copied.assets) == (1, 6)
    assert held(destination, SIGNALS) == held(source, SIGNALS, RUN)
    wanted = {asset.value for place, asset in enumerate(assets) if place not in (3, 5, 7, 9)}
    assert {record[3] for record in held(destination, ASSETS)} == wanted


def _registered(blueprint: str) -> BlueprintRegistered:
    return BlueprintRegistered(
        blueprint=blueprint, name=blueprint, version=1, definition="{}", kinds=(), tags=(), parents=()
    )


def _compiled(kernel: str) -> KernelCompiled:
    return KernelCompiled(
        blueprint=BLUEPRINTS[0], kernel=kernel, kind="Linear", dims=(8, 8), seed=1, parameters=1, size=1
    )


def _evaluated(kernel: str) -> KernelEvaluated:
    evidence = Evidence(passed=True, reason="")
    return KernelEvaluated(
        blueprint=BLUEPRINTS[0], kernel=kernel, kind="Linear", dims=(8, 8), gate="verdict", evidence=evidence
    )


def test_a_run_that_has_gone_on_there_is_refused_and_its_trainer_is_not_disturbed(logs: tuple[Log, Log]) -> None:
    source, destination = logs
    history = History()
    write(source, records(history))
    copy_run(source, destination, RUN)
    there, here = list(history.events), history
    trainer = destination.open_writer(RUN)
    here.resume(trainer.epoch)
    here.boundary(10)
    trainer.append(records(here)[len(there) :])
    before = held(destination, RUNS)
    with pytest.raises(RunExists, match=f"run {RUN} in .* is not a copy: event 3 .*; a trainer has it there, or had"):
        copy_run(source, destination, RUN)
    here.boundary(20)
    trainer.append(records(here)[-1:])
    assert len(held(destination, RUNS)) == len(before) + 1


def test_another_run_of_the_same_name_is_refused(logs: tuple[Log, Log]) -> None:
    source, destination = logs
    write(source, records(History(seed=1)))
    write(destination, records(History(seed=2)))
    before = held(destination, RUNS)
    with pytest.raises(RunExists, match="event 1 is another"):
        copy_run(source, destination, RUN)
    assert held(destination, RUNS) == before


def test_a_run_goes_home_again_with_what_it_did_elsewhere(logs: tuple[Log, Log]) -> None:
    source, destination = logs
    history = History()
    write(source, records(history))
    copy_run(source, destination, RUN)
    writer = destination.open_writer(RUN)
    history.resume(writer.epoch)
    history.boundary(10)
    writer.append(records(history)[2:])
    assert copy_run(destination, source, RUN).events == 2
    assert held(source, RUNS) == held(destination, RUNS)


def test_what_cannot_be_read_to_its_end_is_not_copied(
    urls: tuple[str, str], logs: tuple[Log, Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, destination = logs
    with pytest.raises(RunNotFound, match="there is no run"):
        copy_run(source, destination, RUN)
    history = History()
    history.boundary(10)
    history.decide()
    history.boundary(20)
    write(source, records(history))
    monkeypatch.delitem(_CLASSES, "esper.runs.DecisionMade")
    with pytest.raises(Quarantined):
        copy_run(source, destination, RUN)
    assert held(destination, RUNS) == held(destination, ASSETS) == []


def test_foreign_records_among_the_events_stay_behind(urls: tuple[str, str], logs: tuple[Log, Log]) -> None:
    source, destination = logs
    written = records(History())
    writer = source.open_writer(RUN)
    writer.append(written[:1])
    for topic in (RUNS, SIGNALS):
        inject(urls[0], topic, RUN, b"\x00\x7f\xff\xff\xffgarbage")
    writer.append(written[1:])
    copied = copy_run(source, destination, RUN)
    assert (copied.events, copied.signals) == (2, 0)
    assert [record[3] for record in held(destination, RUNS)] == [record.value for record in written]


@pytest.mark.parametrize("kind", ["sqlite", "kafka"])
def test_a_copied_run_tells_the_same_and_is_resumed_there(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    esper: Callable[..., Result],
    kind: str,
) -> None:
    home = tmp_path / "home"
    loop = Loop(home, epochs=2)
    whole = loop.whole()
    loop.begin()
    loop.go(until=10)
    there = f"sqlite:///{tmp_path}/there.db"
    if kind == "kafka":
        there = request.getfixturevalue("kafka_log_url")()
    assert esper("copy", f"sqlite:///{home}/log.db", there, "--run", "run").code == 0
    told = [esper("show", "run", "--home", home, "--json", *log).json for log in ((), ("--log", there))]
    assert told[0] == told[1]
    assert esper("verify", "run", "--log", there).code == 0
    (home / "log.db").rename(home / "before.db")
    monkeypatch.setenv("ESPER_LOG", there)
    (home / LOG_URL).write_text(there)
    loop.resume()
    loop.go()
    assert history(home, "run") == whole
    assert loop.run.status == "completed"
    assert not (home / "log.db").exists()


class Stopping:
    """A log that fails after so many appends and signals."""

    def __init__(self, log: Log, writes: int) -> None:
        self.log, self.writes, self.url = log, writes, log.url

    def open_writer(self, run_id: str, *, copied: int | None = None) -> Any:
        self.writer = self.log.open_writer(run_id, copied=copied)
        self.run_id, self.epoch, self.sequence = run_id, self.writer.epoch, self.writer.sequence
        return self

    def append(self, written: list[Record]) -> list[Position]:
        self._count()
        return self.writer.append(written)

    def signal(self, record: Record) -> Position:
        self._count()
        return self.log.signal(record)

    def read(self, *arguments: Any, **more: Any) -> Any:
        return self.log.read(*arguments, **more)

    def counted(self, run_id: str) -> Any:
        return self.log.counted(run_id)

    def follow(self, *arguments: Any, **more: Any) -> Any:
        return self.log.follow(*arguments, **more)

    def close(self) -> None:
        pass

    def _count(self) -> None:
        if self.writes == 0:
            raise LogError("the log is away")
        self.writes -= 1


def test_a_copy_that_stops_anywhere_is_finished_by_the_next(
    logs: tuple[Log, Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "BATCH_RECORDS", 7)
    source, destination = logs
    write(source, records(a_run())[:60])
    for each in BLUEPRINTS:
        source.signal(asset_record(_registered(each), writer="test", time=TIME))
    for nonce in ("1", "2"):
        source.signal(command(nonce))
    stops = 0
    while True:
        try:
            copy_run(source, Stopping(destination, 2), RUN)
            break
        except LogError:
            stops += 1
    assert stops > 4
    for topic in (RUNS, SIGNALS, ASSETS):
        assert sorted(held(destination, topic), key=repr) == sorted(held(source, topic), key=repr)


def test_the_command_copies_all_runs_and_says_what_it_did(tmp_path: Path, esper: Callable[..., Result]) -> None:
    source, destination = (f"sqlite:///{tmp_path}/{name}/log.db" for name in ("source", "destination"))
    log = open_log(source)
    for run_id in ("a", "b", "c"):
        run = [replace(record, key=run_id) for record in records(History())]
        log.open_writer(run_id).append(run)
    other = open_log(destination)
    other.open_writer("b").append([replace(record, key="b") for record in records(History(seed=5))])
    one = esper("copy", source, destination, "--run", "a")
    assert (one.code, one.out) == (0, "run a: 2 events; 0 signals, 0 assets\n")
    rest = esper("copy", source, destination, "--json")
    assert rest.code == 1
    assert "run b in" in rest.err
    told = {run["run_id"]: run for run in rest.json["runs"]}
    assert (told["a"]["events"], told["a"]["there"], told["c"]["events"]) == (0, 2, 2)
    assert "is not a copy" in told["b"]["error"]
    assert held(other, RUNS, "c") == held(log, RUNS, "c")
    log.close()
    other.close()


def test_a_copied_run_began_when_it_was_trained(
    tmp_path: Path, log_url_factory: Callable[[], str], esper: Callable[..., Result]
) -> None:
    source, there = open_log(f"sqlite:///{tmp_path}/source/log.db"), log_url_factory()
    begun = {"newer": TIME + timedelta(days=1), "older": TIME}
    for run_id, time in begun.items():
        made = [replace(event, envelope=replace(event.envelope, time=time)) for event in History().events]
        source.open_writer(run_id).append([record_of_event(event, run_id) for event in made])
    with closing(source), closing(open_log(there)) as destination:
        for run_id in begun:
            copy_run(source, destination, run_id)
    told = esper("runs", "--log", there, "--json").json["runs"]
    assert [(run["run_id"], run["begun"], run["last_event"]) for run in told] == [
        (run_id, begun[run_id].isoformat(), begun[run_id].isoformat()) for run_id in ("older", "newer")
    ]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["SOURCE", "SOURCE"], 2, "is named as both logs"),
        (["NOWHERE", "SOURCE"], 2, "there is no log"),
        (["SOURCE", "sqlite:///"], 2, "is not a log"),
        (["SOURCE", "NOWHERE", "--run", "aa"], 1, "did you mean a?"),
    ],
)
def test_what_cannot_be_copied_is_one_clear_line(
    tmp_path: Path, esper: Callable[..., Result], words: list[str], code: int, said: str
) -> None:
    source = f"sqlite:///{tmp_path}/source/log.db"
    log = open_log(source)
    log.open_writer("a").append([replace(record, key="a") for record in records(History())])
    log.close()
    nowhere = f"sqlite:///{tmp_path}/nowhere/log.db"
    result = esper("copy", *(word.replace("SOURCE", source).replace("NOWHERE", nowhere) for word in words))
    assert (result.code, result.err.count("\n")) == (code, 1)
    assert said in result.err
    assert not (tmp_path / "nowhere").exists()
