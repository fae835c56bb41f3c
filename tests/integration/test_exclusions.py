"""What operators may take out of a run, what goes with it, and that the run then goes on to the same bits."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw
import pytest

from esper.errors import CorruptArtifact, LogRefused
from esper.events.runs import CheckpointCommitted, CheckpointRetired, RunResumed, RunStarted
from esper.events.topics import EXCLUSIONS, RUNS
from esper.log import open_log
from esper.log.chain import chained, digest
from esper.log.exclusions import exclusion_record, left_out, run_events
from esper.log.port import Entry, Log, Position
from esper.log.records import run_record
from tests.support.command import Esper, runner
from tests.support.logs.forging import forged, plant
from tests.support.logs.runlog import history
from tests.support.runs.training import Loop, contents

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a run that ended and one that crashed while its seed blends."""
    home = tmp_path_factory.mktemp("trained")
    loop = Loop(home, epochs=6)
    loop.whole()
    loop.begin()
    loop.go(until=40)
    loop.crash()
    return home


@pytest.fixture
def home(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def esper(home: Path, capsys: pytest.CaptureFixture[str]) -> Esper:
    return runner(home, capsys)


@pytest.fixture
def log(home: Path) -> Iterator[Log]:
    with closing(open_log(f"sqlite:///{home / 'log.db'}")) as opened:
        yield opened


def taken(log: Log, run_id: str = "run") -> list[Entry]:
    """Where the run's events lie."""
    return [entry for entry, _ in run_events(log, run_id)]


def goes_on(home: Path) -> None:
    """Resume the run and train it to its end; it is then what it would have been."""
    loop = Loop(home, epochs=6)
    loop.resume()
    loop.go()
    assert history(home, "run") == history(home, "whole")


def damage(home: Path, position: Position) -> None:
    """Another bit in the event's loss, learning rate or whatever else lies in the middle of its body."""
    connection = apsw.Connection(str(home / "log.db"))
    [(value,)] = connection.execute("SELECT value FROM records WHERE offset = ?", (position.offset,)).fetchall()
    value = bytearray(value)
    value[len(value) // 2] ^= 1
    connection.execute("UPDATE records SET value = ? WHERE offset = ?", (bytes(value), position.offset))
    connection.close()


@pytest.mark.parametrize("back", [1, 2, 4, 12, 25])
def test_a_damaged_event_is_taken_out_with_all_that_follows_and_the_run_trains_that_anew(
    back: int, home: Path, log: Log, esper: Esper
) -> None:
    entries = taken(log)
    position = entries[-back].position
    damage(home, position)
    told = esper("check", "run").out
    assert (
        f"run run: {position}: the record is not what was written, by its checksum; restore the log from a copy" in told
    )
    assert f"`esper dlq exclude {position} --why TEXT` takes it out, and all that follows" in told
    done = esper("dlq", "exclude", position, "--why", "a bit")
    assert done.code == 0
    assert "run run reads to event" in done.out
    assert len(taken(log)) <= len(entries) - back
    assert esper("verify", "run").code == 0
    assert f"{position}: " not in esper("check", "run").out
    goes_on(home)
    verified = esper("verify", "run")
    assert (verified.code, "taken out; `esper dlq list` says which and why" in verified.out) == (0, True)
    assert esper("check").code == 0


def test_what_was_taken_out_is_listed(log: Log, esper: Esper) -> None:
    last = taken(log)[-1].position
    assert esper("dlq", "exclude", last, "--why", "I say so").code == 0
    told = esper("dlq", "list").out
    assert str(last) in told
    assert "I say so" in told
    assert esper("dlq", "list", "--json").json["excluded"][0]["source"] == str(last)


def test_the_newest_event_of_a_run_in_training_cannot_be_taken_out(home: Path, log: Log, esper: Esper) -> None:
    loop = Loop(home, epochs=6)

    def attempt(step: int, batch: Any) -> Any:
        if step == 42:
            last = taken(log)[-1].position
            refused = esper("dlq", "exclude", last, "--why", "x")
            assert refused.code == 2
            assert f"{last} cannot be taken out while a trainer goes on with run run; stop that first" in refused.err
        return batch

    loop.resume()
    loop.go(on_batch=attempt)
    assert history(home, "run") == history(home, "whole")


@pytest.mark.parametrize("number", [0, 3, -2, -1])
@pytest.mark.parametrize("live", [False, True])
def test_a_record_that_is_repeated_changes_nothing(number: int, live: bool, home: Path, log: Log, esper: Esper) -> None:
    repeated = taken(log)[number].record
    loop = Loop(home, epochs=6)

    def repeat(step: int, batch: Any) -> Any:
        if live and step == 42:
            plant(log, repeated)
        return batch

    if not live:
        plant(log, repeated)
    loop.resume()
    loop.go(on_batch=repeat)
    assert history(home, "run") == history(home, "whole")
    assert esper("verify", "run").code == 0


def test_a_repeat_may_be_taken_out_and_takes_nothing_with_it(home: Path, log: Log, esper: Esper) -> None:
    position = plant(log, taken(log)[-1].record)
    assert esper("dlq", "exclude", position, "--why", "twice").code == 0
    goes_on(home)
    assert esper("verify", "run").code == 0


def forged_branch(log: Log, count: int) -> list[Position]:
    """So many CheckpointRetired, with right links, behind the run's last event."""
    found = list(run_events(log, "run"))
    last = found[-1][0].record
    gone = {event.content.manifest for _, event in found if isinstance(event.content, CheckpointRetired)}
    kept = [event.content for _, event in found if isinstance(event.content, CheckpointCommitted)]
    live = [each for each in kept if each.manifest not in gone]
    records = [
        run_record(
            "run",
            CheckpointRetired(step=each.step, manifest=each.manifest),
            epoch=last.epoch or 0,
            sequence=(last.sequence or 0) + number,
            writer="trainer/elsewhere/1",
            time=datetime.now(UTC),
        )
        for number, each in enumerate(live[:count], start=1)
    ]
    assert len(records) == count
    return [plant(log, each) for each in chained(records, digest(last))[0]]


def aged(home: Path) -> None:
    for path in (home / "artifacts").rglob("*"):
        if path.is_file():
            os.utime(path, (time.time() - 7200,) * 2)


def test_forged_retirements_cost_no_file_and_go_at_once(home: Path, log: Log, esper: Esper) -> None:
    count = len(taken(log))
    first = forged_branch(log, 2)[0]
    aged(home)
    before = sorted((home / "artifacts").rglob("*"))
    told = esper("check", "--repair")
    assert told.code == 1
    assert f"either event {count + 1} at {first} is no trainer's" in told.out
    assert "nothing was removed, for something is wrong with run run: mend that first" in told.out
    assert sorted((home / "artifacts").rglob("*")) == before
    assert esper("dlq", "exclude", first, "--why", "forged").code == 0
    goes_on(home)


def test_sql_counts_neither_what_was_taken_out_nor_what_follows(log: Log, esper: Esper) -> None:
    count = len(taken(log))
    first = forged_branch(log, 2)[0]
    assert esper("dlq", "exclude", first, "--why", "forged").code == 0
    assert len(left_out(log)) == 2
    said = esper(
        "sql", "SELECT count() FROM events WHERE topic = 'esper.runs' AND key = 'run' AND error = ''", "--format", "csv"
    ).out
    assert said.split()[-1] == str(count)
    assert esper("analytics", "check").code == 0


def test_a_copy_goes_on_after_the_same_was_taken_out_on_both_sides(
    home: Path, log: Log, esper: Esper, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    position = plant(log, forged(log, "run", "CheckpointCommitted", "this epoch"))
    other = f"sqlite:///{tmp_path / 'copy.db'}"
    assert esper("copy", log.url, other, "--run", "run").code == 0
    with closing(open_log(other)) as copy:
        theirs = taken(copy)[-1].position
    assert esper("dlq", "exclude", position, "--why", "forged").code == 0
    assert esper("dlq", "exclude", theirs, "--why", "forged", "--log", other).code == 0
    goes_on(home)
    assert esper("copy", log.url, other, "--run", "run").code == 0
    with closing(open_log(other)) as copy:
        assert [entry.record.value for entry in taken(copy)] == [entry.record.value for entry in taken(log)]


def test_an_exclusion_under_another_runs_key_or_that_names_nothing_takes_nothing_out(log: Log, esper: Esper) -> None:
    entries = taken(log)
    exclusion = exclusion_record(entries[3], "forged", writer="x", time=datetime.now(UTC))
    assert (exclusion.topic, exclusion.key) == (EXCLUSIONS, "run")
    plant(log, replace(exclusion, key="whole"))
    assert len(taken(log)) == len(entries)
    assert [esper(*words).code for words in (("verify", "run"), ("check", "run"))] == [0, 0]


def test_a_later_exclusion_takes_none_back(log: Log, esper: Esper) -> None:
    last = taken(log)[-1]
    assert esper("dlq", "exclude", last.position, "--why", "x").code == 0
    count = len(taken(log))
    other = exclusion_record(taken(log)[0], "undo", writer="x", time=datetime.now(UTC))
    undone = exclusion_record(
        Entry(last.position, last.timestamp, taken(log)[0].record), "undo", writer="x", time=datetime.now(UTC)
    )
    assert other.key == undone.key
    log.signal(undone)
    assert len(taken(log)) == count


def test_a_count_of_writers_that_was_changed_is_found_before_anything_is_written(
    home: Path, log: Log, esper: Esper
) -> None:
    count = len(list(log.read(RUNS)))
    connection = apsw.Connection(str(home / "log.db"))
    connection.execute("UPDATE writers SET epoch = ? WHERE run_id = 'run'", (1 << 62,))
    connection.close()
    told = esper("check", "run")
    assert told.code == 1
    assert f"the log counts {1 << 62} writers, but its last event is of epoch 1: the count was changed" in told.out
    with pytest.raises(LogRefused, match="copy the run to a new log, which counts anew"):
        Loop(home, epochs=6).resume()
    assert len(list(log.read(RUNS))) == count
    assert contents(home, RunResumed) == []


def test_an_end_that_was_deleted_with_its_checksums_is_missed(home: Path, log: Log, esper: Esper) -> None:
    last = taken(log, "whole")[-1].position
    log.close()
    connection = apsw.Connection(str(home / "log.db"))
    for table in ("records", "sums"):
        connection.execute(f"DELETE FROM {table} WHERE offset = ?", (last.offset,))
    connection.close()
    told = esper("check", "whole")
    assert told.code == 1
    assert "is missing, though the log counts" in told.out
    assert f"the record at offset {last.offset} is gone" in told.out


def test_what_an_older_esper_wrote_behind_a_chain_goes_at_once(home: Path, log: Log, esper: Esper) -> None:
    last = taken(log)[-1].record
    begin = RunResumed(checkpoint=0, inexact=False, environment=contents(home, RunStarted)[0].environment, notes=())
    places = [
        plant(
            log,
            run_record(
                "run",
                content,
                epoch=2,
                sequence=(last.sequence or 0) + number,
                writer="trainer/older/1",
                time=datetime.now(UTC),
            ),
        )
        for number, content in enumerate([begin, *contents(home, CheckpointCommitted)[:2]], start=1)
    ]
    assert "an older Esper went on with the run, or another program" in esper("verify", "run").err
    assert esper("dlq", "exclude", places[0], "--why", "unchained").code == 0
    goes_on(home)


def test_a_run_that_ended_and_lost_its_last_weights_is_not_given_older_ones(home: Path) -> None:
    newest = max(contents(home, CheckpointCommitted, "whole"), key=lambda each: each.step)
    (home / "artifacts" / "runs" / "whole" / "manifests" / f"{newest.manifest}.json").unlink()
    with pytest.raises(CorruptArtifact, match=r"run whole is completed, but its last weights, of step 48, are lost"):
        Loop(home, epochs=6).resume("whole")
