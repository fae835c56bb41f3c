"""Damage by single bits, and whether it stays unseen where ``esper verify`` and ``esper check`` are asked."""

from __future__ import annotations

import hashlib
import random
import shutil
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from esper.cli.main import main
from tests.support.runs.training import Loop

RUNS = ("crashed", "whole")
FIELDS = ("offset", "stream", "schema", "timestamp", "epoch", "sequence")


class Outcome(NamedTuple):
    """What was done, and what came of it: "seen", "harmless" (nothing that is read is another), "silent", "raised"."""

    done: str
    what: str
    said: str


def homes(folder: Path) -> tuple[Path, Path]:
    """The same home twice: as it is while a trainer lives, most of it in the ``-wal``, and with all in one file."""
    live, folded = folder / "live", folder / "folded"
    loop = Loop(folder / "home", epochs=5)
    loop.begin("whole")
    loop.go()
    loop.begin("crashed")
    batches = iter(range(30))
    for _ in loop.run.epochs(5):
        for batch in loop.run.batches(loop.batches):
            loop.run.step(batch)
            for each in loop.stateful.values():
                each.step()
            if next(batches) == 29:
                break
        else:
            continue
        break
    loop.run._trainer.retention.commit(wait=True)  # type: ignore[union-attr]
    _copy(folder / "home", live)
    _copy(folder / "home", folded)
    loop.crash()
    connection = apsw.Connection(str(folded / "log.db"))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return live, folded


def _copy(source: Path, copy: Path) -> None:
    """Files of retired checkpoints may just be going."""
    for _ in range(100):
        try:
            shutil.copytree(source, copy)
            return
        except shutil.Error:
            shutil.rmtree(copy)
            time.sleep(0.05)
    raise AssertionError("files come and go without end")


def flipped(data: bytes, random_: random.Random) -> bytes:
    place = random_.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << random_.randrange(8)]) + data[place + 1 :]


def in_a_record(home: Path, random_: random.Random, column: str) -> str:
    connection = apsw.Connection(str(home / "log.db"))
    offsets = [offset for (offset,) in connection.execute("SELECT offset FROM records")]
    offset = random_.choice(offsets)
    value: Any = connection.execute(f"SELECT {column} FROM records WHERE offset = ?", (offset,)).get
    other = flipped(value, random_) if isinstance(value, bytes) else (value or 0) ^ 1 << random_.randrange(40)
    connection.execute("PRAGMA foreign_keys = OFF")
    try:
        connection.execute(f"UPDATE records SET {column} = ? WHERE offset = ?", (other, offset))
    finally:
        connection.close()
    return f"{column} of the record at offset {offset}"


def in_a_file(path: Path, random_: random.Random) -> str:
    path.write_bytes(flipped(path.read_bytes(), random_))
    return path.name


def _artifact(home: Path, random_: random.Random) -> str:
    files = sorted(path for path in (home / "artifacts").rglob("*") if path.is_file() and path.stat().st_size)
    return in_a_file(random_.choice(files), random_)


PLACES: dict[str, tuple[bool, Callable[[Path, random.Random], str]]] = {
    "a value": (False, lambda home, random_: in_a_record(home, random_, "value")),
    "headers": (False, lambda home, random_: in_a_record(home, random_, "headers")),
    "a field": (False, lambda home, random_: in_a_record(home, random_, random_.choice(FIELDS))),
    "a page": (False, lambda home, random_: in_a_file(home / "log.db", random_)),
    "the -wal": (True, lambda home, random_: in_a_file(home / "log.db-wal", random_)),
    "an artifact": (False, _artifact),
}
"""Where a bit is flipped, and whether in the home of a trainer that lives."""


def held(home: Path) -> str:
    """A digest of all that readers read: records, schemas and files; or what is in the way."""
    found = hashlib.sha256()
    try:
        connection = apsw.Connection(str(home / "log.db"))
        for query in ("SELECT * FROM records ORDER BY offset", "SELECT * FROM streams", "SELECT * FROM schemas"):
            for row in connection.execute(query):
                found.update(repr(row).encode(errors="surrogatepass"))
        connection.close()
    except (apsw.Error, UnicodeError) as error:
        return str(error)
    for path in sorted((home / "artifacts").rglob("*")):
        if path.is_file() and path.name != ".writers":
            found.update(path.read_bytes())
    return found.hexdigest()


def ask(home: Path) -> tuple[int, str]:
    """The worst exit code of both commands, and all that they say."""
    worst, said = 0, StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        for words in (*(("verify", run) for run in RUNS), ("check",)):
            worst = max(worst, main([*words, "--home", str(home)]))
    return worst, said.getvalue()


def trial(live: Path, folded: Path, seed: int, folder: Path) -> Outcome:
    """Flip the bit that ``seed`` says in a copy of one of the homes, and ask."""
    random_ = random.Random(seed)
    name = list(PLACES)[seed % len(PLACES)]
    is_live, damage = PLACES[name]
    home = folder / f"trial-{seed}"
    shutil.copytree(live if is_live else folded, home)
    try:
        try:
            done = f"seed {seed}: {name}, {damage(home, random_)}"
        except apsw.ConstraintError:
            return Outcome(f"seed {seed}: {name}", "harmless", "no such row can be")
        code, said = ask(home)
        if "error in Esper" in said or "Traceback" in said:
            return Outcome(done, "raised", said)
        if code:
            return Outcome(done, "seen", said)
        return Outcome(done, "harmless" if held(home) == held(live if is_live else folded) else "silent", said)
    finally:
        shutil.rmtree(home)
