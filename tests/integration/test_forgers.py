"""What a forger can do who may write to a log: nothing is believed that the log itself contradicts, nothing true is
lost, all who read say where, and an operator can end it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from esper.errors import RunUnusable, SequenceConflict
from esper.events import Event
from esper.events.ids import run_event_id
from esper.events.runs import RunCompleted
from esper.events.topics import RUNS
from esper.log import open_log
from esper.log.chain import chained, first_link
from esper.log.exclusions import excluded, run_events, untaken
from esper.log.port import Entry, Log, Position, Record
from esper.log.records import run_record
from esper.tamiyo.run.view import RunView
from tests.support.command import Esper, Result, runner
from tests.support.logs.forging import EPOCHS, KINDS, forged, is_foreign, plant
from tests.support.logs.runlog import LOG_URL, events, history
from tests.support.runs.training import Loop

pytestmark = pytest.mark.usefixtures("one_thread")
TRAINED = 24  # steps


@pytest.fixture(scope="module")
def true(tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    """A run as its trainer wrote it."""
    home = tmp_path_factory.mktemp("true")
    loop = Loop(home, epochs=TRAINED // 8)
    loop.begin()
    loop.go()
    return events(home)


def renamed(true: list[Event], run_id: str) -> list[Record]:
    """The same run under another name."""
    ids = {
        each.envelope.id: run_event_id(run_id, each.envelope.epoch or 0, each.envelope.sequence or 0) for each in true
    }
    records = [
        run_record(
            run_id,
            each.content,  # type: ignore[arg-type]
            epoch=each.envelope.epoch or 0,
            sequence=each.envelope.sequence or 0,
            writer=each.envelope.writer,
            time=each.envelope.time,
            causes=tuple(ids.get(cause, cause) for cause in each.envelope.causes),
        )
        for each in true
    ]
    return chained(records, first_link(run_id))[0]


def viewed(log: Log, run_id: str) -> tuple[RunView, list[Entry]]:
    """A worker's view of the run, and what it did not take."""
    passed: list[Entry] = []
    view = RunView(run_id, lambda entry, error: passed.append(entry), excluded(log, run_id))
    for entry in log.read(RUNS, run_id):
        view.take(entry)
    return view, passed


WHEN = ("before the true event", "after it", "at the end")
Planted = tuple[str, str, str, Position]


@pytest.fixture
def planted(url: str, true: list[Event], when: str) -> Iterator[tuple[Log, list[Planted]]]:
    """A log with a run for each kind of forged event and each epoch."""
    log, found = open_log(url), []
    for kind in KINDS:
        for number, epoch in enumerate(EPOCHS):
            run_id = f"{kind}-{number}"
            records, half = renamed(true, run_id), len(true) // 2
            writer = log.open_writer(run_id)
            writer.append(records[: half if when == WHEN[0] else len(records)])
            behind = [entry for entry, _ in run_events(log, run_id)][-2] if when == WHEN[1] else None
            found.append((run_id, kind, epoch, plant(log, forged(log, run_id, kind, epoch, behind))))
            if when == WHEN[0]:
                writer.append(records[half:])
    yield log, found
    log.close()


@pytest.mark.parametrize("when", WHEN)
def test_every_reader_says_where_a_forged_event_lies_and_an_operator_can_take_it_out(
    planted: tuple[Log, list[Planted]],
    when: str,
    url: str,
    true: list[Event],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    log, found = planted
    esper, there = runner(tmp_path, capsys), f"sqlite:///{tmp_path}/copies/log.db"

    def ask(*words: object) -> Result:
        return esper(*words, "--log", url)

    listed = ask("runs")
    lines = list(untaken(log))
    for run_id, kind, epoch, position in found:
        said = f"{run_id}, {kind} in {epoch}, {when}"
        if when == WHEN[2] and not is_foreign(kind, epoch):
            continue  # nothing on the log contradicts it until its trainer comes back
        verified = ask("verify", run_id)
        copied = esper("copy", url, there, "--run", run_id)
        for told in (listed, verified, copied):
            assert told.code == 1, said
            assert f"{position}" in told.err, said
            assert "error in Esper" not in told.err, said
        assert any(f"{position}" in line for line in lines), said
        view, passed = viewed(log, run_id)
        if is_foreign(kind, epoch):
            assert [entry.position for entry in passed] == [position], said
            assert view.state.sequence == len(true), said
        else:
            assert view.trouble is not None, said
            assert f"{position}" in view.trouble["error"], said
    for run_id, kind, epoch, position in found:
        said = f"{run_id}, {kind} in {epoch}, {when}"
        taken_out = ask("dlq", "exclude", position, "--why", "forged")
        assert (taken_out.code, f"reads to event {len(true)}" in taken_out.out) == (0, True), (said, taken_out)
        assert [event.content for _, event in run_events(log, run_id)] == [event.content for event in true], said
        assert ask("verify", run_id).code == 0, said
        assert esper("copy", url, there, "--run", run_id).code == 0, said
        view, passed = viewed(log, run_id)
        assert (view.trouble, passed, view.state.sequence) == (None, [], len(true)), said
    assert ask("runs").code == 0
    assert list(untaken(log)) == []


# With a trainer


@pytest.fixture
def home(log_url_factory: Callable[[], str], tmp_path: Path) -> Path:
    (tmp_path / LOG_URL).write_text(log_url_factory())
    return tmp_path


def loop_in(home: Path) -> Loop:
    return Loop(home, epochs=TRAINED // 8, more={"log": (home / LOG_URL).read_text()})


def forging(home: Path, loop: Loop, kind: str, epoch: str, place: int | None = None) -> tuple[Any, list[Position]]:
    """What plants the event while the trainer is at step 10, and where it came to lie."""
    found: list[Position] = []

    def on_batch(step: int, batch: Any) -> Any:
        if step == 10:
            loop.run._trainer.journal.wait()  # type: ignore[union-attr]
            log = open_log((home / LOG_URL).read_text())
            behind = None if place is None else [entry for entry, _ in run_events(log, "run")][place]
            found.append(plant(log, forged(log, "run", kind, epoch, behind)))
            log.close()
        return batch

    return on_batch, found


def compared(true: list[Event]) -> list[Any]:
    """How it ended, but for how many measurements a slow log has cost."""
    return [replace(each.content, measured=None) for each in true if isinstance(each.content, RunCompleted)]


@pytest.mark.parametrize(
    ("kind", "epoch", "place"),
    [
        ("RunFailed", "this epoch", None),
        ("BoundaryReached", "this epoch", None),
        ("RunResumed", "the next", None),
        ("CheckpointCommitted", "this epoch", -3),
        ("RunResumed", "the next", -2),
    ],
)
def test_a_trainer_whose_run_is_forked_ends_with_an_error_and_its_events_are_there_after_the_exclusion(
    kind: str, epoch: str, place: int | None, home: Path, true: list[Event], capsys: pytest.CaptureFixture[str]
) -> None:
    loop = loop_in(home)
    loop.begin()
    on_batch, found = forging(home, loop, kind, epoch, place)
    with pytest.raises(SequenceConflict, match=r"forked|does not follow") as raised:
        loop.go(on_batch=on_batch)
    [position] = found
    assert f"{position}" in str(raised.value)
    log = (home / LOG_URL).read_text()
    assert runner(home, capsys)("dlq", "exclude", position, "--why", "forged", "--log", log).code == 0
    assert compared(events(home)) == compared(true)
    assert loop_in(home).resume().state.status == "completed"


@pytest.mark.parametrize(("kind", "epoch"), [("RunFailed", "2^40"), ("RunCompleted", "the next")])
def test_a_trainer_goes_on_to_the_end_beside_a_foreign_event(
    kind: str, epoch: str, home: Path, true: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    loop = loop_in(home)
    loop.begin()
    on_batch, _ = forging(home, loop, kind, epoch)
    loop.go(on_batch=on_batch)
    assert "dead letter" in caplog.text
    assert compared(events(home)) == compared(true)


@pytest.mark.parametrize(
    ("kind", "epoch"),
    [
        ("RunFailed", "2^63 - 1"),
        ("RunCompleted", "the next"),
        ("RunStarted", "this epoch"),
        ("RunResumed", "the next"),
        ("RunFailed", "this epoch"),
        ("RunCompleted", "this epoch"),
    ],
)
def test_what_was_forged_while_no_trainer_lived_does_not_change_how_the_run_goes_on(
    kind: str, epoch: str, home: Path, true: list[Event], capsys: pytest.CaptureFixture[str]
) -> None:
    loop = loop_in(home)
    loop.begin()
    loop.go(until=10)
    url = (home / LOG_URL).read_text()
    log = open_log(url)
    position = plant(log, forged(log, "run", kind, epoch))
    log.close()
    if kind in ("RunFailed", "RunCompleted") and not is_foreign(kind, epoch):  # believed, until somebody knows better
        esper: Esper = runner(home, capsys)
        if kind == "RunFailed":
            with pytest.raises(RunUnusable, match="forged"):
                loop_in(home).resume()
        assert esper("dlq", "exclude", position, "--why", "no trainer lived", "--log", url).code == 0
    again = loop_in(home)
    if kind == "RunResumed" and url.startswith("sqlite"):  # an embedded log counts what its writers wrote
        with pytest.raises(SequenceConflict, match=re.escape(f"at {position} is no trainer's")):
            again.resume()
        assert runner(home, capsys)("dlq", "exclude", position, "--why", "no trainer's", "--log", url).code == 0
    again.resume()
    again.go()
    assert compared(events(home)) == compared(true)
    assert [name for name, _ in history(home, "run")][-1] == "RunCompleted"


def test_nothing_that_is_whole_can_be_taken_out(
    home: Path, true: list[Event], capsys: pytest.CaptureFixture[str]
) -> None:
    url = (home / LOG_URL).read_text()
    log = open_log(url)
    log.open_writer("run").append(renamed(true, "run"))
    esper = runner(home, capsys)
    positions = [entry.position for entry in log.read(RUNS, "run")]
    refused = esper("dlq", "exclude", positions[3], "--why", "a slip", "--log", url)
    assert (refused.code, f"nothing speaks against it; {positions[-1]} can" in refused.err) == (2, True)
    assert esper("dlq", "exclude", positions[3], "--log", url).code == 2
    assert "--why" in esper("dlq", "exclude", positions[3], "--log", url).err
    missing = esper(
        "dlq", "exclude", f"{positions[0].topic}/{positions[0].partition}:999999", "--why", "x", "--log", url
    )
    assert (missing.code, "no record at that place" in missing.err) == (1, True)
    assert len(list(run_events(log, "run"))) == len(true)
    log.close()
