"""A real embedded log whose writers fail as a test says: fault injection at the port, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import pytest

from esper.errors import LogError, WriterLost
from esper.log.port import Position, Record, Writer
from esper.log.sqlite.log import SqliteLog
from esper.tolaria import assembly

Fault = Literal["away", "lost before", "lost after", None]
"""Of one append: the log does not take it; the writer is given up with its transaction undone, or committed."""


class FaultyLog(SqliteLog):
    """``faults`` has one fault for each append, ``opening`` one for each opening of a writer ("away" or None);
    when they are used up all goes well. ``before_open`` is called before a writer is opened."""

    def __init__(self, folder: Path) -> None:
        path = folder / "log.db"
        super().__init__(f"sqlite:///{path}", path)
        self.faults: Iterator[Fault] = iter(())
        self.opening: Iterator[Fault] = iter(())
        self.before_open: Callable[[], None] = lambda: None
        self.opened = 0

    def open_writer(self, run_id: str, *, copied: int | None = None) -> Writer:  # type: ignore[override]
        self.before_open()
        if next(self.opening, None) == "away":
            raise LogError("the broker is away")
        self.opened += 1
        return FaultyWriter(super().open_writer(run_id, copied=copied), self)


class FaultyWriter:
    def __init__(self, writer: Writer, log: FaultyLog) -> None:
        self.run_id, self.epoch, self.sequence = writer.run_id, writer.epoch, writer.sequence
        self._writer, self._log = writer, log
        self._lost = False

    def append(self, records: Sequence[Record]) -> Position | None:
        fault = next(self._log.faults, None)
        if fault == "away":
            raise LogError("the broker is away")
        assert not self._lost, "a writer that was lost is used again"
        self._lost = fault is not None
        if fault == "lost before":
            raise WriterLost("the writer was given up")
        position = self._writer.append(records)
        if fault == "lost after":
            raise WriterLost("the writer was given up")
        return position

    def follow(self, sequence: int) -> None:
        self._writer.follow(sequence)

    def close(self) -> None:
        self._writer.close()


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> list[Iterator[Fault]]:
    """What the logs do that trainers open from now on; empty: nothing."""
    chosen: list[Iterator[Fault]] = []

    def open_faulty(url: str) -> FaultyLog:
        log = FaultyLog(Path(url.removeprefix("sqlite:///")).parent)
        if chosen:
            log.faults = chosen[0]
        return log

    monkeypatch.setattr(assembly, "open_log", open_faulty)
    return chosen
