"""Records that cannot be read: foreign ones are passed over, a run's own quarantines it, until they can be read."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from esper.cli.main import main
from esper.errors import Quarantined
from esper.events.deadletter import DeadLetterResolved
from esper.events.encoding.codec import _CLASSES
from esper.events.signals import CommandIssued
from esper.events.topics import DEADLETTER, RUNS, SIGNALS
from esper.log import open_log
from esper.log.deadletter import ROOM, dead_letter_record, letters, sending_to
from esper.log.ordering import in_order
from esper.log.port import MAX_BYTES, Entry, Log, Position, Record
from esper.log.records import event_of, signal_record
from esper.tamiyo.run.fold import fold
from esper.tamiyo.run.state import RunState
from tests.support.command import Esper, ending, wait_until
from tests.support.logs.foreign import inject
from tests.support.logs.records import record_of_event
from tests.support.runs.histories import RUN, History
from tests.support.runs.training import Loop

NOW = datetime(2026, 11, 22, tzinfo=UTC)
GARBAGE = b"\x00\x7f\xff\xff\xffwho knows"


@pytest.fixture
def esper(url: str, capsys: pytest.CaptureFixture[str]) -> Esper:
    return ending(capsys, "--log", url)


def history() -> list[Record]:
    """A run of nine events; the fourth is a decision."""
    made = History()
    for step in (10, 20, 30):
        made.boundary(step)
        made.decide()
    made.checkpoint(30)
    return [record_of_event(event) for event in made.events]


def write(log: Log, records: list[Record]) -> list[Position]:
    log.open_writer(RUN).append(records)
    return [entry.position for entry in log.read(RUNS, key=RUN)]


def read(log: Log, key: str = RUN) -> RunState:
    """The run as a worker reads it: what it cannot read becomes a dead letter."""
    entries = in_order(log.read(RUNS, key=key), unreadable=sending_to(log, "worker"))
    return fold(RunState(key), (event for _, event in entries))


def older_version(monkeypatch: pytest.MonkeyPatch, name: str = "esper.runs.DecisionMade") -> None:
    """From now on this Esper knows no such event, as one before it was invented."""
    monkeypatch.delitem(_CLASSES, name)


def test_garbage_between_the_events_of_a_run_is_a_dead_letter_and_the_run_goes_on(url: str, log: Log) -> None:
    records = history()
    writer = log.open_writer(RUN)
    writer.append(records[:4])
    place = inject(url, RUNS, RUN, GARBAGE, (("from", b"elsewhere"), ("raw", b"\xff")))
    writer.append(records[4:])
    assert read(log).sequence == len(records)
    [letter] = letters(log)
    content = letter.content
    assert (content.source, content.key, content.value, content.size) == (str(place), RUN, GARBAGE, len(GARBAGE))
    assert [(header.name, header.value) for header in content.headers] == [("from", b"elsewhere"), ("raw", b"\xff")]
    assert (content.schema, content.schema_id, letter.outcome) == (None, 0x7FFFFFFF, None)
    assert content.error


def test_a_dead_letter_lies_under_the_position_of_its_record_and_is_the_same_each_time(url: str, log: Log) -> None:
    place = inject(url, RUNS, RUN, b"garbage")
    for _ in range(3):
        read(log)
    entries = list(log.read(DEADLETTER, key=str(place)))
    assert len({event_of(entry).envelope.id for entry in entries}) == 1
    assert len(letters(log)) == 1


def test_an_event_that_cannot_be_read_quarantines_its_run_and_no_other(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = history()
    positions = write(log, records)
    other = [
        Record(RUNS, "other", record.schema, record.value, (), record.epoch, record.sequence) for record in records[:3]
    ]
    log.open_writer("other").append(other)
    older_version(monkeypatch)
    with pytest.raises(Quarantined) as caught:
        read(log)
    assert (caught.value.sequence, caught.value.position) == (4, str(positions[3]))
    assert read(log, "other").sequence == 3
    assert [letter.content.source for letter in letters(log)] == [str(positions[3])]
    assert letters(log)[0].content.schema == "esper.runs.DecisionMade"


def test_a_dead_letter_is_listed_and_shown_with_its_bytes_and_headers(url: str, log: Log, esper: Esper) -> None:
    place = inject(url, RUNS, RUN, GARBAGE, (("from", b"elsewhere"), ("raw", b"\xff")))
    assert esper("dlq", "list").out.startswith("there are no dead letters")
    read(log)
    [told] = esper("dlq", "list", "--json").json["dead_letters"]
    assert (told["source"], told["schema_id"], told["resolved"]) == (str(place), 0x7FFFFFFF, None)
    listed = esper("dlq", "list").out
    assert str(place) in listed
    assert "2147483647" in listed
    shown = esper("dlq", "show", place)
    assert shown.code == 0
    assert GARBAGE.hex() in shown.out
    assert "from: elsewhere" in shown.out
    assert "raw: \\xff" in shown.out
    assert esper("dlq", "show", place, "--json").json["value"] == GARBAGE.hex()
    missing = esper("dlq", "show", "esper.runs/3:99999")
    assert (missing.code, missing.err.count("\n")) == (2, 1)
    assert "is no dead letter" in missing.err


def test_redrive_folds_the_run_again_once_the_reader_is_mended_and_appends_no_copy(log: Log, esper: Esper) -> None:
    records = history()
    bad = write(log, records)[3]
    reader = pytest.MonkeyPatch()
    older_version(reader)
    with pytest.raises(Quarantined):
        read(log)
    refused = esper("dlq", "redrive", bad)
    assert refused.code == 1
    assert f"run {RUN} is quarantined: its event 4 at {bad} cannot be read" in refused.err
    assert letters(log)[0].outcome is None
    reader.undo()  # the upgrade
    mended = esper("dlq", "redrive", bad)
    assert mended.code == 0
    assert f"it reads as DecisionMade, event 4 of run {RUN}, which folds to event {len(records)}" in mended.out
    assert [entry.record.value for entry in log.read(RUNS)] == [record.value for record in records]
    [letter] = letters(log)
    assert esper("dlq", "list", "--json").json["dead_letters"][0]["resolved"] == letter.outcome
    assert letter.outcome is not None


def test_whoever_keeps_the_view_hears_of_it_where_the_run_is(log: Log, esper: Esper) -> None:
    bad = write(log, history())[3]
    reader = pytest.MonkeyPatch()
    older_version(reader)
    with pytest.raises(Quarantined):
        read(log)
    reader.undo()
    assert esper("dlq", "redrive", bad).code == 0
    [entry] = log.read(DEADLETTER, key=RUN)
    content = event_of(entry).content
    assert isinstance(content, DeadLetterResolved)
    assert content.source == str(bad)
    assert entry.position.partition == bad.partition


def test_a_run_can_be_redriven_when_its_dead_letter_is_gone(log: Log, esper: Esper) -> None:
    place = write(log, history())[3]
    told = esper("dlq", "redrive", place, "--json").json["redriven"]
    assert told == [{"source": str(place), "resolved": True, "outcome": told[0]["outcome"]}]
    assert "event 4 of run" in told[0]["outcome"]


def test_garbage_stays_a_dead_letter_when_it_is_redriven(url: str, log: Log, esper: Esper) -> None:
    writer, records = log.open_writer(RUN), history()
    writer.append(records[:4])
    place = inject(url, RUNS, RUN, GARBAGE)
    writer.append(records[4:])
    read(log)
    result = esper("dlq", "redrive", place)
    assert result.code == 1
    assert f"goes on without it to event {len(records)}, so it is not one of its events" in result.err
    assert letters(log)[0].outcome is None


def test_redrive_where_no_record_is_tells_whether_one_ever_was(log: Log, esper: Esper) -> None:
    known = write(log, history())[3]
    gone = Position(RUNS, known.partition, known.offset + 1000)
    for place in (gone, Position(SIGNALS, 77, 0), Position("another.topic", 0, 0)):
        never = esper("dlq", "redrive", place)
        assert never.code == 1
        assert never.err.startswith(
            f"esper: {place}: there is no record at that place, and no dead letter; `esper dlq list` "
        )
    record = Record(RUNS, RUN, history()[0].schema, GARBAGE)
    log.signal(dead_letter_record(Entry(gone, NOW, record, "deleted since"), "deleted since", writer="test", time=NOW))
    deleted = esper("dlq", "redrive", gone)
    assert deleted.code == 1
    assert deleted.err.startswith(
        f"esper: {gone}: there is no record at {gone} any more; what it held is in `esper dlq show "
    )


def test_one_that_comes_again_after_it_was_resolved_is_open_again(
    log: Log, monkeypatch: pytest.MonkeyPatch, esper: Esper
) -> None:
    bad = write(log, history())[3]
    for _ in range(2):
        with monkeypatch.context() as version:
            older_version(version)
            with pytest.raises(Quarantined):
                read(log)
        assert letters(log)[0].outcome is None
        assert esper("dlq", "redrive", bad).code == 0
        assert letters(log)[0].outcome is not None


def test_a_signal_that_can_be_read_now_is_sent_again_and_is_the_same(
    log: Log, monkeypatch: pytest.MonkeyPatch, esper: Esper
) -> None:
    content = CommandIssued(command="pause", seed=None, issuer="test", nonce="1", reason="")
    sent = signal_record(RUN, content, writer="test", time=NOW)
    place = log.signal(sent)
    with monkeypatch.context() as version:
        older_version(version, "esper.signals.CommandIssued")
        [entry] = log.read(SIGNALS, key=RUN)
        log.signal(dead_letter_record(entry, "an older version", writer="test", time=NOW))
        assert esper("dlq", "redrive", place).code == 1
    assert esper("dlq", "redrive", place).code == 0
    values = [entry.record.value for entry in log.read(SIGNALS, key=RUN)]
    assert values == [sent.value] * (2 if log.url.startswith("kafka") else 1)  # the embedded log knows it by its id
    assert letters(log)[0].outcome == f"it reads as CommandIssued, sent again to run {RUN}"


@pytest.mark.parametrize(
    ("value", "headers"),
    [(b"x" * (MAX_BYTES - 100), ()), (b"short", (("h", b"x" * (MAX_BYTES - 100)),))],
    ids=["value", "headers"],
)
def test_a_record_of_the_largest_size_still_makes_a_dead_letter(
    log: Log, value: bytes, headers: tuple[tuple[str, bytes], ...]
) -> None:
    place = Position(RUNS, 0, 1)
    record = dead_letter_record(
        Entry(place, NOW, Record(RUNS, RUN, history()[0].schema, value, headers), "error " * 10_000),
        "error " * 10_000,
        writer="test",
        time=NOW,
    )
    assert len(record.value) < ROOM + 10_000
    log.signal(record)
    [letter] = letters(log)
    assert letter.content.size == len(value)
    assert value.startswith(letter.content.value)


def test_where_there_is_no_log_nothing_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "nowhere"
    assert main(["dlq", "list", "--json", "--home", str(home)]) == 0
    assert json.loads(capsys.readouterr().out) == {"dead_letters": [], "excluded": []}
    for words in (["show", "esper.runs/0:1"], ["redrive", "esper.runs/0:1"]):
        assert main(["dlq", *words, "--home", str(home)]) == 2
    assert not home.exists()


def test_a_trainer_makes_dead_letters_of_what_it_cannot_read_and_trains_on(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/log.db"
    loop = Loop(tmp_path, epochs=2)
    loop.begin()
    places = [inject(url, SIGNALS, "run", GARBAGE)]
    log = open_log(url)
    wait_until(lambda: letters(log), "the dead letter")
    loop.go(until=10)
    places.append(inject(url, RUNS, "run", GARBAGE))
    loop.resume()
    loop.go()
    assert loop.run.status == "completed"
    assert {letter.content.source for letter in letters(log)} == set(map(str, places))
    log.close()


def test_a_quarantined_run_is_not_resumed_and_the_error_names_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = Loop(tmp_path, epochs=2)
    loop.begin()
    loop.go(until=10)
    log = open_log(f"sqlite:///{tmp_path}/log.db")
    entry = next(each for each in log.read(RUNS) if each.record.schema.name == "esper.runs.DecisionMade")
    with monkeypatch.context() as version:
        older_version(version)
        version.setattr("esper.tamiyo.run.snapshot.version", lambda: "older")
        with pytest.raises(Quarantined, match=f"{entry.position} cannot be read.*esper dlq redrive {entry.position}"):
            loop.resume()
        assert str(entry.position) in {letter.content.source for letter in letters(log)}
        assert main(["show", "run", "--home", str(tmp_path)]) == 1
        assert str(entry.position) in capsys.readouterr().err
    loop.resume()
    loop.go()
    assert loop.run.status == "completed"
    log.close()
