"""A resume reads its run from the last checkpoint on; where that cannot be done, from the first event, to the same."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest

from esper.artifacts import open_store
from esper.cli.main import main
from esper.errors import Quarantined
from esper.events import RunContent
from esper.events.runs import AlertRaised, BoundaryReached, CheckpointCommitted, RunPaused
from esper.events.topics import RUNS
from esper.log import open_log
from esper.log.deadletter import dead_letter_record
from esper.log.kafka.log import KafkaLog
from esper.log.port import Entry, Position
from esper.log.records import run_record
from esper.log.sqlite.log import SqliteLog
from esper.tamiyo.run import snapshot
from esper.tamiyo.run.snapshot import from_bytes, to_bytes
from esper.tolaria.checkpoint.store import Checkpoints
from esper.tolaria.history import History, further, recent, whole
from tests.support.logs.faulty import Fault
from tests.support.logs.runlog import LOG_URL, history, log_url
from tests.support.runs.training import Loop, settings

CRASH = 77


pytestmark = pytest.mark.usefixtures("one_thread", "no_pauses")


def loop_in(home: Path, **more: Any) -> Loop:
    """96 steps, a boundary at every other one, a checkpoint at every sixth."""
    return Loop(home, settings=settings(boundary={"steps": 2}, **more), epochs=12)


@pytest.fixture(scope="module")
def crashed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("crashed")
    loop = loop_in(home)
    loop.begin()
    loop.go(until=CRASH)
    return home


@pytest.fixture
def crashed(crashed_once: Path, tmp_path: Path) -> Path:
    """The home of a run that crashed at step CRASH."""
    return shutil.copytree(crashed_once, tmp_path / "crashed")


def both(home: Path, run_id: str = "run") -> tuple[History | None, History]:
    """The run as read from its last checkpoint on, and from its first event."""
    log = open_log(log_url(home))
    try:
        return recent(log, open_store(f"file:///{home / 'artifacts'}"), run_id), whole(log, run_id)
    finally:
        log.close()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sequence numbers of all events of runs that are read from now on."""
    numbers: list[int] = []
    for kind in (SqliteLog, KafkaLog):
        read = kind.read

        def counting(self: Any, topic: str, *args: Any, read: Any = read, **more: Any) -> Iterator[Entry]:
            for entry in read(self, topic, *args, **more):
                if topic == RUNS:
                    numbers.append(entry.record.sequence or 0)
                yield entry

        monkeypatch.setattr(kind, "read", counting)
    return numbers


def test_a_resume_reads_no_event_from_long_before_the_last_checkpoint(
    log_url_factory: Callable[[], str], tmp_path: Path, counted: list[int]
) -> None:
    url = log_url_factory()
    (tmp_path / LOG_URL).write_text(url)
    loop = loop_in(tmp_path)
    loop.more["log"] = url
    expected = loop.whole()
    loop.begin()
    loop.go(until=CRASH)
    counted.clear()
    loop.resume()
    last = loop.run.state.sequence
    assert last > 100
    assert min(counted) > last - 40
    assert len(counted) < 120  # some of them twice or thrice
    loop.go()
    assert history(tmp_path, "run") == expected


def test_a_log_says_where_a_runs_newest_checkpoint_is(log_url_factory: Callable[[], str]) -> None:
    log = open_log(log_url_factory())
    alert = AlertRaised(step=1, kind="test", detail="", value=None)
    contents: list[RunContent] = [alert, checkpoint(1), alert, checkpoint(2), alert]
    for run_id in ("run", "other"):
        writer = log.open_writer(run_id)
        for number, content in enumerate(contents[: 5 if run_id == "run" else 3], 1):
            fields: dict[str, Any] = {"epoch": 1, "sequence": number, "writer": "test", "time": datetime.now(UTC)}
            writer.append([run_record(run_id, content, **fields)])
    for run_id, place in (("run", 3), ("other", 1)):
        assert log.checkpointed(run_id) == [entry.position for entry in log.read(RUNS, run_id)][place]
    log.open_writer("empty")
    assert log.checkpointed("empty") is None
    assert log.checkpointed("unknown") is None
    log.close()


def checkpoint(step: int) -> CheckpointCommitted:
    return CheckpointCommitted(step=step, manifest="", sequence=1, reason="due", size=1)


def test_what_is_read_from_the_last_checkpoint_on_is_the_end_of_the_run(crashed: Path) -> None:
    last, all_of_it = both(crashed)
    assert last is not None
    assert last.since is not None
    assert last.since >= CRASH - 6
    assert last.state == all_of_it.state
    assert last.state.digest_of_state() == all_of_it.state.digest_of_state()
    assert 0 < len(last.events) < 30
    assert last.events == all_of_it.events[-len(last.events) :]
    assert last.order.mark.link == all_of_it.order.mark.link
    assert last.order.mark.position == all_of_it.order.mark.position
    behind = [event for event in all_of_it.events if getattr(event.content, "step", 0) > last.since]
    assert behind == [event for event in last.events if getattr(event.content, "step", 0) > last.since]


def test_a_paused_run_is_read_from_its_pause_on(tmp_path: Path) -> None:
    loop = loop_in(tmp_path)
    loop.begin()
    loop.go(until=41)
    loop.resume()

    def interrupted(step: int, batch: Any) -> Any:
        if step == 60:
            loop.run._interrupted.set()
        return batch

    with pytest.raises(SystemExit, match="paused"):
        loop.go(on_batch=interrupted)
    last, all_of_it = both(tmp_path)
    assert last is not None
    assert isinstance(last.events[-1].content, RunPaused)
    assert last.since == 60
    assert not any(isinstance(event.content, BoundaryReached) for event in last.events)
    assert last.state.digest_of_state() == all_of_it.state.digest_of_state()


def test_what_came_since_is_read_on_from_there(crashed: Path) -> None:
    last, _ = both(crashed)
    assert last is not None
    loop_in(crashed).resume().epochs(0)
    log = open_log(log_url(crashed))
    assert further(log, last).state.digest_of_state() == whole(log, "run").state.digest_of_state()
    assert len(further(log, last).events) > len(last.events)
    log.close()


# The ways in which it cannot be done. Each leaves a run that is resumed all the same.


def delete(home: Path) -> None:
    for path in (home / "artifacts/runs/run/folds").iterdir():
        path.unlink()


def damage(home: Path) -> None:
    for path in (home / "artifacts/runs/run/folds").iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b" ")


def forge(home: Path) -> None:
    """Another fold lies beside each checkpoint, whole in itself: the run had come to other losses."""
    for path in (home / "artifacts/runs/run/folds").iterdir():
        folded = from_bytes(path.read_bytes())
        data = to_bytes(replace(folded, state=replace(folded.state, losses=(0.0,))))
        path.with_name(f"{path.name.split('.')[0]}.{hashlib.sha256(data).hexdigest()}.fold").write_bytes(data)
        path.unlink()


def nothing(home: Path) -> None:
    return


def folded_as(**fields: Any) -> Callable[[pytest.MonkeyPatch], None]:
    """Checkpoints say that they were folded to something else."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        right = Checkpoints.folded

        def wrong(self: Checkpoints, manifest: str, fold: str | None) -> Any:
            found = right(self, manifest, fold)
            assert found is not None
            own = {name: value for name, value in fields.items() if name in ("link",)}
            state = {name: value for name, value in fields.items() if name not in own}
            return replace(found, state=replace(found.state, **state), **own)

        monkeypatch.setattr(Checkpoints, "folded", wrong)

    return plant


def hinted(place: Callable[[Position], Position | None]) -> Callable[[pytest.MonkeyPatch], None]:
    """The log names another place than its newest checkpoint's."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        right: Any = SqliteLog.checkpointed
        monkeypatch.setattr(SqliteLog, "checkpointed", lambda log, run_id: place(right(log, run_id)))

    return plant


def another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "version", lambda: "another")


WRONG: dict[str, Callable[[Path], None] | Callable[[pytest.MonkeyPatch], None]] = {
    "missing": delete,
    "damaged": damage,
    "forged": forge,
    "another version's": another_version,
    "another run's": folded_as(run_id="other"),
    "at another event": folded_as(sequence=7),
    "with another last event": folded_as(link="00" * 32),
    "of a later writer": folded_as(writer_epoch=2),
    "no hint": hinted(lambda place: None),
    "a hint to another event": hinted(lambda place: replace(place, offset=place.offset - 2)),
    "a hint to nothing": hinted(lambda place: replace(place, offset=10**12)),
    "a hint to the log's beginning": hinted(lambda place: replace(place, offset=0)),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_run_whose_fold_cannot_be_used_is_read_from_its_first_event(
    wrong: str, crashed: Path, monkeypatch: pytest.MonkeyPatch, counted: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    plant: Any = WRONG[wrong]
    plant(crashed if plant in (delete, damage, forge) else monkeypatch)
    last, all_of_it = both(crashed)
    assert last is None
    counted.clear()
    loop = loop_in(crashed)
    loop.resume()
    assert min(counted) == 1
    assert all(record.levelname == "DEBUG" for record in caplog.records)
    assert loop.run.state.sequence == all_of_it.state.sequence + 1
    loop.crash()


def test_a_hint_to_an_earlier_checkpoint_still_serves(crashed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = open_log(log_url(crashed))
    found = [
        entry.position for entry in log.read(RUNS, "run") if entry.record.schema.name.endswith("CheckpointCommitted")
    ]
    log.close()
    monkeypatch.setattr(SqliteLog, "checkpointed", lambda log, run_id: found[-2])
    last, all_of_it = both(crashed)
    assert last is not None
    assert last.state.digest_of_state() == all_of_it.state.digest_of_state()


def test_when_the_newest_checkpoint_is_damaged_the_run_is_read_from_its_first_event(
    crashed: Path, counted: list[int]
) -> None:
    last, all_of_it = both(crashed)
    assert last is not None
    newest = max(all_of_it.state.checkpoints, key=lambda each: each.step)
    (before,) = sorted(each.step for each in all_of_it.state.checkpoints)[-2:-1]
    log = open_log(log_url(crashed))
    store = open_store(f"file:///{crashed / 'artifacts'}")
    raw = Checkpoints(store, "run")._manifest(newest.manifest)
    log.close()
    older = [
        Checkpoints(store, "run")._manifest(each.manifest) for each in all_of_it.state.checkpoints if each != newest
    ]
    shared = {chunk for each in older for _, chunk in each["tensors"].values()}
    own = next(chunk for _, chunk in raw["tensors"].values() if chunk not in shared)
    (crashed / f"artifacts/runs/run/chunks/{own}.safetensors").unlink()
    counted.clear()
    loop = loop_in(crashed)
    loop.resume()
    assert min(counted) == 1
    assert loop.run.step_number == before
    loop.go()
    assert loop.run.status == "completed"


def test_a_run_whose_decisions_are_made_elsewhere_is_read_from_its_first_event(tmp_path: Path) -> None:
    loop = loop_in(tmp_path, decision={"where": "remote", "wait": 0.0})
    loop.begin()
    loop.go(until=CRASH)
    last, _ = both(tmp_path)
    assert last is None


@pytest.mark.parametrize("seed", range(6))
def test_however_often_the_log_gave_its_writer_up_both_ways_of_reading_agree(
    seed: int, faults: list[Iterator[Fault]], tmp_path: Path
) -> None:
    chance = random.Random(seed)
    kinds: list[Fault] = ["lost before", "lost after", *[None] * 12]
    faults.append(chance.choice(kinds) for _ in repeat(None))

    loop = loop_in(tmp_path)
    loop.begin()
    used = 0
    for step in sorted(chance.sample(range(6, 90), 6)):
        loop.go(until=step)
        last, all_of_it = both(tmp_path)
        used += last is not None
        assert last is None or last.state.digest_of_state() == all_of_it.state.digest_of_state()
        loop.resume()
    assert used
    loop.crash()


def test_a_run_with_a_dead_letter_is_read_from_its_first_event_and_refused(tmp_path: Path) -> None:
    """What no resume would read, for it lies before the checkpoint, some other reader has found."""
    loop = Loop(tmp_path)
    loop.begin()
    loop.go(until=20)
    log = SqliteLog("sqlite:///", tmp_path / "log.db")
    entry = [*log.read(RUNS, key="run")][3]
    with log.database.transaction() as connection:
        connection.execute("UPDATE records SET value = x'ff' WHERE offset = ?", (entry.position.offset,))
    assert main(["verify", "run", "--home", str(tmp_path)]) == 1
    log.signal(dead_letter_record(replace(entry, error="damaged"), "damaged", writer="test", time=entry.timestamp))
    with pytest.raises(Quarantined, match=f"{entry.position} cannot be read"):
        loop.resume()
    log.close()
