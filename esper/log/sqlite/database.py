"""The SQLite file under the embedded log: its tables, its connections, and its errors in words."""

from __future__ import annotations

import os
import stat
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakSet

import apsw

from esper.errors import LogError
from esper.log.sqlite import checksums, wal
from esper.log.sqlite.read_only import Seen, opened, seen
from esper.system.private import make_folder

VERSION = 1
LOCK_TIMEOUT = 5.0
"""Seconds to wait for another process that is writing."""

_TABLES = """
CREATE TABLE log (id TEXT NOT NULL);
CREATE TABLE schemas (id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE, json TEXT NOT NULL);
CREATE TABLE streams (  -- a key of a topic; a topic is the streams that name it
    id INTEGER PRIMARY KEY,
    topic TEXT NOT NULL,
    key TEXT NOT NULL,
    partition INTEGER NOT NULL,
    UNIQUE (topic, key)
);
CREATE TABLE records (
    offset INTEGER PRIMARY KEY,  -- one count for all partitions: it grows in each, with holes
    stream INTEGER NOT NULL REFERENCES streams,
    schema INTEGER NOT NULL REFERENCES schemas,
    value BLOB NOT NULL,
    headers BLOB NOT NULL,
    timestamp INTEGER NOT NULL,  -- milliseconds since 1970, UTC
    epoch INTEGER,
    sequence INTEGER
);
CREATE INDEX records_by_stream ON records (stream);
CREATE TABLE signals (stream INTEGER, id BLOB, offset INTEGER NOT NULL, PRIMARY KEY (stream, id)) WITHOUT ROWID;
CREATE TABLE writers (
    run_id TEXT PRIMARY KEY,
    epoch INTEGER NOT NULL,
    sequence INTEGER NOT NULL,  -- of the run's last committed record
    offset INTEGER NOT NULL     -- of the last record that its writers committed, in whatever topic; -1: none
) WITHOUT ROWID;
"""

_REMEDIES: tuple[tuple[type[apsw.Error] | tuple[type[apsw.Error], ...], str], ...] = (
    (apsw.BusyError, f"another process has been writing to it for {LOCK_TIMEOUT:.0f} s; try again when that is done"),
    (apsw.FullError, "the disk is full; free some space and try again"),
    (apsw.IOError, "reading or writing failed; check the disk's space, quota and health, then try again"),
    (
        (apsw.CorruptError, apsw.NotADBError),
        "damaged, or not a log; restore it, or move it away to start anew",
    ),
    (apsw.ReadOnlyError, "it can only be read here; copy its folder to where you may write, or mend its permissions"),
    ((apsw.CantOpenError, apsw.PermissionsError), "it cannot be opened; check path and permissions"),
)


@dataclass(slots=True)
class _Seat:
    """A thread's connection. The lock is the thread's own but for a fork, which waits until it is free."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    connection: apsw.Connection | None = None
    seen: Seen | None = None
    """What the file looked like, where it is read in place."""


class Database:
    """One file, created with its folder when first used; a connection for each thread.

    Connections are closed before a fork and opened again when needed, in parent and child alike: SQLite
    keeps file locks per process, and a child that inherits their bookkeeping would not take locks of its own.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seats: dict[int, _Seat] = {}
        self._registry = threading.Lock()
        self._closed = False
        self._file: tuple[int, int] | None = None  # device and inode
        self._summed = False  # whether there surely is a table of checksums
        _databases.add(self)

    @contextmanager
    def session(self) -> Iterator[apsw.Connection]:
        """The calling thread's connection. SQLite's errors become LogError."""
        seat = self._seat()
        with seat.lock, _explained(self.path):
            if self._closed:
                raise LogError(f"{self.path}: the log was closed; open it again")
            if seat.seen is not None and seat.seen != seen(self.path):
                _vacate(seat)
            if seat.connection is None:
                seat.connection, seat.seen = self._connected()
            try:
                yield seat.connection
            finally:
                if seat.seen is not None and seat.seen.torn(seen(self.path)):
                    _vacate(seat)
                    raise LogError(f"{self.path}: somebody wrote to it while it was read, unseen from here; try again")

    @contextmanager
    def transaction(self) -> Iterator[apsw.Connection]:
        """A write transaction, durable when this returns; rolled back if anything is raised."""
        with self.session() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                if not self._summed:  # a file of an older version gets the table with the first write
                    connection.execute(checksums.TABLE)
                yield connection
                connection.execute("COMMIT")
                self._summed = True
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close every thread's connection, once it is idle."""
        self._closed = True
        with self._registry:
            for seat in self._seats.values():
                with seat.lock:
                    _vacate(seat)

    def _connected(self) -> tuple[apsw.Connection, Seen | None]:
        """Another connection to the file of the first one: two threads must not see two files."""
        (connection, in_place), found = _connected(self.path, first=self._file is None), self.path.stat()
        file = found.st_dev, found.st_ino
        if self._file not in (None, file):
            connection.close()
            raise LogError(f"{self.path}: another file has taken its place; open the log again")
        self._file = file
        return connection, in_place

    def _seat(self) -> _Seat:
        seat = self._seats.get(threading.get_ident())
        if seat is None:
            with self._registry:
                seat = self._seats.setdefault(threading.get_ident(), _Seat())
        return seat

    def _before_fork(self) -> None:
        self._registry.acquire()
        for seat in self._seats.values():
            seat.lock.acquire()
            _vacate(seat)

    def _after_fork_in_parent(self) -> None:
        for seat in self._seats.values():
            seat.lock.release()
        self._registry.release()

    def _after_fork_in_child(self) -> None:
        self._seats = {}
        self._registry = threading.Lock()


_databases: WeakSet[Database] = WeakSet()
_forking: list[Database] = []


def _before_fork() -> None:
    _forking.extend(_databases)
    for database in _forking:
        database._before_fork()


def _after_fork_in_parent() -> None:
    for database in _forking:
        database._after_fork_in_parent()
    _forking.clear()


def _after_fork_in_child() -> None:
    for database in _forking:
        database._after_fork_in_child()
    _forking.clear()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


def _vacate(seat: _Seat) -> None:
    if seat.connection is not None:
        seat.connection.close()
        seat.connection = seat.seen = None


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise LogError(f"{path}: damaged, for a text in it is none ({error}); restore it from a copy") from error
    except (apsw.Error, OSError) as error:
        for kinds, remedy in _REMEDIES:
            if isinstance(error, kinds):
                raise LogError(f"{path}: {remedy} ({error})") from error
        raise LogError(f"{path}: {error}") from error


def _connected(path: Path, first: bool) -> tuple[apsw.Connection, Seen | None]:
    """A connection; and what the file looked like, where nothing can be made beside it. The ``first`` one looks at what
    others have left in ``-wal``."""
    lost = wal.gone(path) if first else None
    if lost is not None:
        raise _lost(path, lost)
    make_folder(path.parent)
    _make_file(path)
    before = wal.claimed(path) if first else None
    try:
        return _prepared(apsw.Connection(str(path)), path, first, before, in_memory=False), None
    except (apsw.CantOpenError, apsw.ReadOnlyError):
        found = seen(path)
        return _prepared(opened(path, found), path, first, before, in_memory=True), found


def _prepared(
    connection: apsw.Connection, path: Path, first: bool, before: wal.Claim | None, *, in_memory: bool
) -> apsw.Connection:
    try:
        connection.set_busy_timeout(round(LOCK_TIMEOUT * 1000))
        connection.execute("PRAGMA synchronous = FULL")
        version = _version(connection, path)  # from here on the -wal counts
        if first:
            _check_wal(connection, path, before, in_memory)
        if version == 0:
            _create(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_wal(connection: apsw.Connection, path: Path, before: wal.Claim | None, in_memory: bool) -> None:
    """Raise LogError, and leave the file as it is, where SQLite would drop what was committed."""
    for _ in range(wal.LOOKS):  # others may be writing between the two looks that it takes
        damage = wal.dropped(path, before, in_memory=in_memory)
        if damage is None:
            wal.forget(path)
            return
        time.sleep(0.02)
    assert damage is not None
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    if before is not None:  # from now on the index says something else
        wal.note(path, before)
    raise _lost(path, damage)


def _lost(path: Path, damage: str) -> LogError:
    return LogError(
        f"{path}-wal: {damage}; restore both files from a copy, or go on with what lies before the damage: "
        "`esper check --repair`"
    )


def _make_file(path: Path) -> None:
    """Make the file, private, if it is not there; SQLite gives its companions the same mode.

    Without a descriptor: closing one would take away the locks that other threads have on the file. Where only root
    may do so SQLite makes it itself, and the folder is what keeps it private.
    """
    if not path.exists():
        with suppress(FileExistsError, PermissionError):
            os.mknod(path, 0o600 | stat.S_IFREG)


def _version(connection: apsw.Connection, path: Path) -> int:
    """The version of the file's tables, 0 if it is empty; raises LogError if they are not ours."""
    # One statement, one snapshot: another process may be creating them.
    version, tables = connection.execute(
        "SELECT user_version, (SELECT count(*) FROM sqlite_schema) FROM pragma_user_version"
    ).fetchone()  # type: ignore[misc]
    if version > VERSION:
        raise LogError(
            f"{path}: a log of version {version}, but this Esper knows {VERSION} at most; upgrade esper-training"
        )
    if version == 0 and tables:
        raise LogError(f"{path}: an SQLite file, but not an Esper log; choose another path")
    return int(version)


def _create(connection: apsw.Connection) -> None:
    """Make the tables, unless another process was faster."""
    _use_wal(connection)
    connection.execute("BEGIN IMMEDIATE")
    try:
        if connection.pragma("user_version") == 0:
            connection.execute(_TABLES)
            connection.execute("INSERT INTO log VALUES (?)", (str(uuid.uuid4()),))
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _use_wal(connection: apsw.Connection) -> None:
    """Change to write-ahead logging, which SQLite may refuse at once while others open the new file too."""
    if connection.readonly("main"):
        raise LogError(f"{connection.filename}: it is empty and can only be read here; name another log")
    deadline = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            if connection.pragma("journal_mode", "wal") == "wal":
                return
            raise LogError(f"{connection.filename}: its file system cannot hold a shared log; choose a local disk")
        except apsw.BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
