"""Damage to what a killed trainer left in SQLite's -wal: told every time, and mended where one asks for that."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from esper.log import open_log
from tests.support.command import Esper, runner, spawn
from tests.support.logs.flips import homes
from tests.support.logs.runlog import history
from tests.support.runs.training import Loop

pytestmark = pytest.mark.usefixtures("one_thread")
FRAME, HEADER = 4096 + 24, 32
Harm = Callable[[Path], None]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home as it lay when its trainer was killed."""
    return homes(tmp_path_factory.mktemp("killed"))[0]


@pytest.fixture
def home(killed: Path, tmp_path: Path) -> Path:
    shutil.copytree(killed, tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def esper(home: Path, capsys: pytest.CaptureFixture[str]) -> Esper:
    return runner(home, capsys)


def commits(wal: Path) -> list[int]:
    """The numbers of the frames that end a transaction."""
    data = wal.read_bytes()
    places = range(HEADER, len(data) - FRAME + 1, FRAME)
    return [number for number, place in enumerate(places, start=1) if data[place + 4 : place + 8] != bytes(4)]


def flip(wal: Path, place: int) -> None:
    data = bytearray(wal.read_bytes())
    data[place] ^= 1
    wal.write_bytes(data)


def in_the_last(wal: Path) -> None:
    flip(wal, HEADER + (commits(wal)[-1] - 1) * FRAME + 500)


def in_the_middle(wal: Path) -> None:
    flip(wal, HEADER + (commits(wal)[len(commits(wal)) // 2] - 1) * FRAME + 500)


def salts(wal: Path) -> None:
    flip(wal, HEADER + (commits(wal)[-2] - 1) * FRAME + 8)
    os.unlink(f"{str(wal).removesuffix('-wal')}-shm")


def cut(wal: Path) -> None:
    os.truncate(wal, wal.stat().st_size // 2)


HARMS: dict[str, tuple[Harm, str]] = {
    "a bit of the last transaction": (in_the_last, "it is damaged behind frame "),
    "a bit of one in the middle": (in_the_middle, "it is damaged behind frame "),
    "a bit of a frame's salts, and no index": (salts, "it is damaged behind frame "),
    "a bit of the header": (lambda wal: flip(wal, 17), "its header is damaged"),
    "half of it is gone": (cut, "its end is gone from frame "),
    "all but its header is gone": (lambda wal: os.truncate(wal, HEADER), "what it held is gone: "),
    "it is empty": (lambda wal: os.truncate(wal, 0), "what it held is gone: "),
    "it is gone": (os.unlink, "what it held is gone: "),
}


@pytest.mark.parametrize("harm", HARMS)
def test_every_command_tells_of_it_every_time(harm: str, home: Path, esper: Esper) -> None:
    wal = home / "log.db-wal"
    HARMS[harm][0](wal)
    before = wal.read_bytes() if wal.exists() else None
    for words in (("runs",), ("show", "whole"), ("verify", "crashed"), ("check",), ("runs",), ("check",)):
        told = esper(*words)
        assert told.code == 1
        assert told.err.startswith(f"esper: {wal}: {HARMS[harm][1]}")
        assert told.err.endswith("go on with what lies before the damage: `esper check --repair`\n")
    assert (wal.read_bytes() if wal.exists() else None) == before


def test_repairing_goes_on_with_what_lies_before_the_damage(home: Path, esper: Esper) -> None:
    wal = home / "log.db-wal"
    data, ends = wal.read_bytes(), commits(wal)
    in_the_last(wal)
    damaged = wal.read_bytes()
    esper("runs")
    mended = esper("check", "--repair")
    assert (
        f"{wal}: cut behind frame {ends[-2]}, where the damage begins; what it was is in log.db-wal.damaged"
        in mended.out
    )
    assert (home / "log.db-wal.damaged").read_bytes() == damaged
    again = esper("check")
    assert again.code in (0, 1)  # whether a checkpoint was taken behind the damage is chance
    assert "damaged" not in again.out
    assert esper("verify", "crashed").code == 0
    assert esper("verify", "whole").code == 0
    assert not (home / "log.db-claim").exists()
    assert len(data) == len(damaged)


def test_what_goes_on_behind_a_repaired_end_comes_to_the_same(home: Path, esper: Esper) -> None:
    in_the_last(home / "log.db-wal")
    assert esper("check", "--repair").code in (0, 1)
    if "and resume refuses" in esper("check", "crashed").out:  # a checkpoint was taken behind the damage
        shutil.rmtree(home / "artifacts" / "runs" / "crashed" / "folds")
        pytest.skip("the damage took what a checkpoint includes")
    loop = Loop(home, epochs=5)
    loop.resume("crashed")
    loop.go()
    assert history(home, "crashed") == history(home, "whole")


def test_nothing_is_repaired_while_somebody_has_the_log_open(home: Path) -> None:
    log = open_log(f"sqlite:///{home / 'log.db'}")
    assert any(True for _ in log.read("esper.runs"))
    in_the_last(home / "log.db-wal")
    _, said = spawn(home, "check", "--repair").communicate()
    assert "log.db: another process has it open; end that first, then repair it" in said
    assert not (home / "log.db-wal.damaged").exists()
    log.close()


def test_an_empty_file_beside_a_wal_that_holds_something_is_not_begun_anew(home: Path, esper: Esper) -> None:
    for harm in (lambda path: os.truncate(path, 0), os.unlink):
        harm(home / "log.db")
        told = esper("runs")
        assert told.code == 1
        assert "log.db is empty, though this holds what was written to it" in told.err
        assert "restore it from a copy" in esper("check", "--repair").err
        assert commits(home / "log.db-wal")


def test_what_the_index_says_is_where_sqlite_keeps_it(home: Path) -> None:
    index = (home / "log.db-shm").read_bytes()
    end, flushed = struct.unpack("=I", index[16:20])[0], struct.unpack("=I", index[96:100])[0]
    assert (end, flushed) == (commits(home / "log.db-wal")[-1], 0)
