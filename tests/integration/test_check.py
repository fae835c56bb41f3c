"""``esper check``: each kind of damage is named with its place and what follows from it, and nothing else is."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

import esper
from esper.artifacts import open_store
from esper.errors import RunNotFound, SequenceGap
from esper.events.topics import RUNS
from esper.integrity import check
from esper.log import open_log
from tests.support.command import Esper, runner
from tests.support.logs.runlog import history
from tests.support.runs.training import Loop, host

pytestmark = pytest.mark.usefixtures("one_thread")
Harm = Callable[[Path], Any]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two runs, one of them crashed while its seed blends."""
    home = tmp_path_factory.mktemp("trained")
    loop = Loop(home, epochs=6)
    loop.begin("crashed")
    loop.go(until=40)
    loop.begin("whole")
    loop.go()
    log, store = open_log(f"sqlite:///{home / 'log.db'}"), open_store(f"file:///{home / 'artifacts'}")
    for left in check(log, store).left_over.values():  # of a checkpoint that was being taken
        for each in left:
            store.delete(each.key)
    log.close()
    return home


@pytest.fixture
def home(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def command(home: Path, capsys: pytest.CaptureFixture[str]) -> Esper:
    return runner(home, capsys)


def changed(home: Path, statement: str, *values: Any) -> None:
    connection = apsw.Connection(str(home / "log.db"))
    connection.execute(statement, values)
    connection.close()


def offset_of(home: Path, place: int, run_id: str = "crashed") -> int:
    log = open_log(f"sqlite:///{home / 'log.db'}")
    found = [entry.position.offset for entry in log.read(RUNS, run_id)][place]
    log.close()
    return found


def flip(home: Path, column: str, place: int = 5, byte: int = 40) -> None:
    """Another value of a column of one record of the run that crashed."""
    offset = offset_of(home, place)
    connection = apsw.Connection(str(home / "log.db"))
    value = connection.execute(f"SELECT {column} FROM records WHERE offset = ?", (offset,)).get
    other = value + 1 if isinstance(value, int) else bytes([*value[:byte], value[byte] ^ 1, *value[byte:][1:]])
    connection.execute(f"UPDATE records SET {column} = ? WHERE offset = ?", (other, offset))
    connection.close()


def files(home: Path, kind: str, run_id: str = "crashed") -> list[Path]:
    return sorted((home / "artifacts/runs" / run_id / kind).iterdir())


def manifest(home: Path, step: int, run_id: str = "crashed") -> Path:
    return next(each for each in files(home, "manifests", run_id) if json.loads(each.read_bytes())["step"] == step)


def steps(home: Path, run_id: str = "crashed") -> list[int]:
    return [each.step for each in esper.connect(home).run(run_id).checkpoints]


def test_a_home_that_is_whole_is_said_to_be(command: Esper) -> None:
    found = command("check")
    assert found.code == 0
    assert found.out.startswith("checked 2 runs, ")
    assert found.out.endswith(": all is as it was written\n")
    assert "have no checksum" not in found.out
    assert command("check", "whole", "--json").json["runs"] == 1
    assert command("check", "none-such").code == 1


@pytest.mark.parametrize("column", ["value", "headers", "timestamp", "epoch", "sequence"])
def test_a_record_that_is_not_what_was_written_is_named(column: str, home: Path, command: Esper) -> None:
    flip(home, column)
    found = command("check")
    assert found.code == 1
    line = next(line for line in found.out.splitlines() if "checksum" in line)
    assert line.startswith("run crashed: esper.runs/")
    assert f":{offset_of(home, 5)}: the record is not what was written" in line
    assert "run whole: " not in found.out
    assert command("check", "whole").code == 0
    assert command("check", "crashed").code == 1


def test_the_last_event_of_a_run_is_covered_as_well(home: Path, command: Esper) -> None:
    flip(home, "value", -1)
    assert f":{offset_of(home, -1)}: the record is not what was written" in command("check").out


def test_a_schema_that_is_another_or_none_is_named(home: Path, command: Esper) -> None:
    changed(home, "UPDATE schemas SET json = replace(json, ?, ?) WHERE id = 2", '"envelope"', '"envelop"')
    assert "schema 2 is another than was written" in command("check").out
    changed(home, "UPDATE schemas SET json = ? WHERE id = 2", b"\xff\x00")
    assert "schema 2 cannot be read" in command("check").out


def test_a_page_of_the_file_that_is_damaged_is_said_in_words(home: Path, command: Esper) -> None:
    size = (home / "log.db").stat().st_size
    for page in range(2, size // 4096):
        with open(home / "log.db", "r+b") as file:
            file.seek(page * 4096)
            before = file.read(16)
            file.seek(page * 4096)
            file.write(bytes(each ^ 0x5A for each in before))
        found = command("check")
        assert found.code == 1, page
        assert "error in Esper" not in found.err, page
        assert "Traceback" not in found.out + found.err, page
        with open(home / "log.db", "r+b") as file:
            file.seek(page * 4096)
            file.write(before)
    assert command("check").code == 0


def test_records_of_before_are_checked_without_a_checksum_and_an_older_esper_can_still_write(
    home: Path, command: Esper
) -> None:
    changed(home, "DROP TABLE sums")
    found = command("check")
    assert "records have no checksum: an older Esper or another program wrote them" in found.out
    assert found.code == 1  # no older Esper chains events
    assert len([line for line in found.out.splitlines() if "are chained but have no checksum" in line]) == 2
    flip(home, "headers", byte=-2)
    assert "link beside the record is not what its body says" in command("check").out
    connection = apsw.Connection(str(home / "log.db"))
    assert not connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'sums'").get
    last = connection.execute("SELECT * FROM records ORDER BY offset DESC").fetchone()
    assert last is not None
    assert len(last) == 8  # what an older Esper inserts, by position
    connection.close()


@pytest.mark.parametrize("harm", ["flip", "truncate", "delete"])
@pytest.mark.parametrize("kind", ["chunks", "manifests"])
def test_a_checkpoint_that_is_lost_is_named_with_what_follows(kind: str, harm: str, home: Path, command: Esper) -> None:
    before, last = steps(home)[-2:]
    path = manifest(home, last)
    if kind == "chunks":
        raw = json.loads(path.read_bytes())
        others = {
            chunk
            for step in steps(home)[:-1]
            for _, chunk in json.loads(manifest(home, step).read_bytes())["tensors"].values()
        }
        own = {chunk for _, chunk in raw["tensors"].values()} - others
        path = next(each for each in files(home, "chunks") if each.stem in own)
    data = path.read_bytes()
    if harm == "delete":
        path.unlink()
    else:
        path.write_bytes(data[: len(data) // 2] if harm == "truncate" else bytes([data[0] ^ 1]) + data[1:])
    found = command("check")
    assert found.code == 1
    [line] = [line for line in found.out.splitlines() if "is lost" in line]
    assert line.startswith(f"run crashed: runs/crashed: the checkpoint of step {last} is lost: ")
    assert f"{path.name} is {'missing' if harm == 'delete' else 'damaged'}" in line
    assert line.endswith(f"resume starts from step {before}")
    assert command("check", "whole").code == 0


def test_without_any_checkpoint_it_says_that_nothing_can_be_resumed(home: Path, command: Esper) -> None:
    for path in files(home, "manifests"):
        path.unlink()
    assert "no checkpoint is whole, so nothing of the run can be loaded or resumed" in command("check").out


def test_a_lost_fold_and_a_lost_kernel_cost_time_and_nothing_else(home: Path, command: Esper) -> None:
    for path in files(home, "folds"):
        path.write_bytes(b"x")
    for path in (home / "artifacts/kernels").iterdir():
        path.unlink()
    found = command("check", "crashed")
    assert found.code == 1
    assert "reads the run from its first event, and is as exact" in found.out
    assert "it will be compiled again from what the log says of it" in found.out
    loop = Loop(home, epochs=6)
    loop.resume("crashed")
    loop.go()
    compared = [[each for each in history(home, run) if each[0] != "RunStarted"] for run in ("crashed", "whole")]
    assert compared[0] == compared[1]


def test_weights_are_loaded_without_the_kernels_files(home: Path) -> None:
    expected = esper.load("whole", host(), home=home).state_dict()
    shutil.rmtree(home / "artifacts/kernels")
    found = esper.load("whole", host(), home=home).state_dict()
    assert found.keys() == expected.keys()
    assert len(found) > len(host().state_dict())
    assert all(found[name].equal(expected[name]) for name in expected)


def test_files_that_nothing_names_are_removed_by_repair_once_they_are_old(home: Path, command: Esper) -> None:
    young, old, half = (
        files(home, "chunks")[0].with_name(name) for name in ("a.safetensors", "b.safetensors", ".tmp-1-ab")
    )
    stranger = home / "artifacts/runs/elsewhere/chunks/c.safetensors"
    stranger.parent.mkdir(parents=True)
    for path in (young, old, half, stranger):
        path.write_bytes(b"12345")
    for path in (old, half, stranger):
        os.utime(path, (time.time() - 7200,) * 2)
    before = {path for path in (home / "artifacts").rglob("*") if path.is_file() and path.name != ".writers"}
    found = command("check")
    assert found.code == 0
    assert "runs/crashed: 2 files that nothing names, 10 bytes; --repair removes old ones" in found.out
    assert "files of 1 runs that are not on this log were left alone" in found.out
    assert all(path.exists() for path in before)
    found = command("check", "--repair")
    assert found.code == 0
    assert "runs/crashed: 1 files removed, 5 bytes" in found.out
    assert "runs/crashed: 1 files are younger than an hour and stay" in found.out
    after = {path for path in (home / "artifacts").rglob("*") if path.is_file() and path.name != ".writers"}
    assert before - after == {old, half}


def test_nothing_is_repaired_of_a_run_that_has_a_trainer(home: Path, command: Esper) -> None:
    old = files(home, "chunks")[0].with_name("b.safetensors")
    loop = Loop(home, epochs=6)
    loop.resume("crashed")
    loop.run._trainer.retention._writer.clean().result()  # type: ignore[union-attr]
    old.write_bytes(b"12345")
    os.utime(old, (time.time() - 7200,) * 2)
    found = command("check", "--repair")
    assert "runs/crashed: a trainer has it, and nothing there was removed" in found.out
    assert old.exists()
    loop.crash()
    assert "runs/crashed: 1 files removed" in command("check", "--repair").out


def test_what_a_killed_trainer_left_is_gone_after_the_next_resume(home: Path, command: Esper) -> None:
    for name in ("chunks/b.safetensors", "manifests/b.json", "folds/a.b.fold"):
        (home / "artifacts/runs/crashed" / name).write_bytes(b"left")
    loop = Loop(home, epochs=6)
    loop.resume("crashed")
    loop.go()
    assert "that nothing names" not in command("check").out


def test_a_log_that_ends_before_a_checkpoint_of_the_store_is_said_to_be_cut(home: Path, command: Esper) -> None:
    last = steps(home)[-1]
    taken = json.loads(manifest(home, last).read_bytes())["sequence"]
    changed(home, "DELETE FROM records WHERE offset >= ?", offset_of(home, taken - 3))
    found = command("check", "crashed")
    assert found.code == 1
    assert (
        f"the log of the run ends at event {taken - 3}, but the store holds a checkpoint of step {last} that was taken "
        in found.out
    )
    assert f"taken at event {taken}: its end is missing" in found.out
    assert "are gone; restore the log from a copy" in found.out


@pytest.mark.parametrize("value", ["text", b"bytes", 12345, -1, 2**63 - 1, 0.5])
@pytest.mark.parametrize(
    "column", ["stream", "schema", "value", "headers", "timestamp", "epoch", "sequence", "key", "topic", "partition"]
)
def test_columns_that_hold_any_kind_of_value_are_told_in_words(
    column: str, value: object, home: Path, command: Esper
) -> None:
    if column in ("key", "topic", "partition"):
        changed(home, f"UPDATE OR REPLACE streams SET {column} = ? WHERE id = 7", value)
    else:
        changed(home, f"UPDATE records SET {column} = ? WHERE offset = ?", value, offset_of(home, 5))
    found = [command(*words) for words in (("runs",), ("verify", "crashed"), ("check",), ("dlq", "list"))]
    assert all("error in Esper" not in each.err for each in found), found
    assert found[2].code == 1


def test_nothing_is_left_over_of_a_run_whose_log_cannot_be_read_or_has_lost_its_end(home: Path, command: Esper) -> None:
    for path in (home / "artifacts/runs/crashed").rglob("*"):
        os.utime(path, (time.time() - 7200,) * 2)
    before = sorted((home / "artifacts").rglob("*"))
    shutil.copy(home / "log.db", home / "kept.db")
    flip(home, "value", 12)
    found = command("check", "--repair")
    assert "run crashed: runs/crashed: which files the run needs is not known" in found.out
    assert "is lost" not in found.out
    shutil.copy(home / "kept.db", home / "log.db")
    changed(home, "DELETE FROM records WHERE offset >= ?", offset_of(home, -12))
    changed(home, "UPDATE writers SET sequence = (SELECT max(sequence) FROM records WHERE epoch = 1 AND stream = 7)")
    assert command("check", "--repair").code == 1
    assert [path for path in before if not path.exists()] == []


def test_a_resume_refuses_a_log_that_is_older_than_the_store_and_changes_nothing(home: Path) -> None:
    files_before = sorted((home / "artifacts").rglob("*"))
    taken = json.loads(manifest(home, steps(home)[-1]).read_bytes())["sequence"]
    cut = offset_of(home, taken - 3)
    changed(home, "DELETE FROM sums WHERE offset >= ?", cut)
    changed(home, "DELETE FROM records WHERE offset >= ?", cut)
    loop = Loop(home, epochs=6)
    with pytest.raises(SequenceGap, match=rf"the log ends at event {taken - 3}, .* taken at event {taken}; restore"):
        loop.resume("crashed")
    assert [path for path in files_before if not path.exists()] == []


def test_a_kernel_that_nothing_names_is_left_over_unless_another_logs_runs_are_in_the_store(
    home: Path, command: Esper
) -> None:
    spare = home / "artifacts/kernels" / ("ab" * 32)
    spare.write_bytes(b"12345")
    os.utime(spare, (time.time() - 7200,) * 2)
    assert "kernels: 1 files that nothing names, 5 bytes" in command("check").out
    stranger = home / "artifacts/runs/elsewhere/chunks/c.safetensors"
    stranger.parent.mkdir(parents=True)
    stranger.write_bytes(b"x")
    assert "kernels: " not in command("check", "--repair").out
    shutil.rmtree(stranger.parents[1])
    assert "kernels: 1 files removed, 5 bytes" in command("check", "--repair").out
    assert not spare.exists()
    assert command("check").out.endswith("all is as it was written\n")


def test_a_run_whose_log_is_lost_is_told_by_check_and_resume(home: Path, command: Esper) -> None:
    last = steps(home)[-1]
    for name in ("log.db", "log.db-wal", "log.db-shm"):
        (home / name).unlink(missing_ok=True)
    assert command("check").code == 2  # there is no log at all
    with pytest.raises(RunNotFound, match="does not exist"):
        Loop(home, epochs=6).resume("crashed")
    assert not (home / "log.db").exists()
    log = open_log(f"sqlite:///{home / 'log.db'}")
    log.open_writer("another")
    log.close()
    told = command("check")
    assert told.code == 1
    assert f"this log has no such run, but the store holds a checkpoint of step {last}" in told.out
    assert "restore a newer copy of the log" in told.out
    with pytest.raises(RunNotFound, match="its files are here: restore its log"):
        Loop(home, epochs=6).resume("crashed")


def test_nothing_is_removed_of_a_run_that_lost_a_manifest(home: Path, command: Esper) -> None:
    for path in (home / "artifacts").rglob("*"):
        os.utime(path, (time.time() - 7200,) * 2)
    path = manifest(home, steps(home)[-1])
    kept = path.read_bytes()
    path.unlink()
    before = sorted((home / "artifacts").rglob("*"))
    told = command("check", "--repair")
    assert "nothing was removed, for something is wrong with run crashed: mend that first" in told.out
    assert sorted((home / "artifacts").rglob("*")) == before
    path.write_bytes(kept)
    assert command("check", "--repair").code == 0


def test_what_is_no_artifact_is_let_be_and_a_pipe_is_not_waited_for(home: Path, command: Esper) -> None:
    folder = home / "artifacts" / "runs" / "crashed" / "chunks"
    (folder / "x (copy).safetensors").write_bytes(b"x")
    chunk = next(path for path in folder.iterdir() if path.stem in manifest(home, steps(home)[-1]).read_text())
    chunk.unlink()
    os.mkfifo(chunk)
    told = command("check", "--repair")
    assert told.code == 1
    assert f"{chunk.name} is missing" in told.out or f"{chunk.name} is damaged" in told.out
    assert (folder / "x (copy).safetensors").exists()
