"""Runs another program that is killed, or stopped, at a chosen place. The code under test knows nothing of it.

faults.main([{"at": "module:Class.method", "when": "before"}], "moons", "start", ...)
"""

from __future__ import annotations

import builtins
import functools
import importlib
import io
import os
import signal
import threading
import time
from contextlib import nullcontext
from typing import Any

from esper.events import Event
from esper.events.encoding.codec import decode
from esper.log.port import Record
from esper.log.sqlite.log import SqliteWriter

_appending = threading.RLock()
APPENDS = {"sqlite": "esper.log.sqlite.log:SqliteWriter.append", "kafka": "esper.log.kafka.writer:KafkaWriter.append"}


def main(faults: list[dict[str, Any]], program: str, *arguments: Any) -> None:
    _append_alone()
    for fault in faults:
        arm(**fault)
    importlib.import_module(program).main(*arguments)


def arm(at: str, when: str, nth: int = 1, holding: str | None = None, strike: str = "SIGKILL") -> None:
    """Strike before or after the ``nth`` call of ``at``; with ``holding`` (an event's name, with a stage or step if
    wanted: "SeedTransitioned CULLED") only calls count that are given a transaction with such an event.
    ``at="append"`` stands for that of the log's writer. ``when="half"`` is for ``open``: of what is written first, half
    is written. ``strike`` is a signal, or SLEEP."""
    at = APPENDS[os.environ["ESPER_LOG"].partition(":")[0]] if at == "append" else at
    module, _, path = at.partition(":")
    *owners, name = path.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    original = getattr(owner, name, None) or getattr(builtins, name)
    calls = 0

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        counts = holding is None or any(_holds(each, holding) for each in args)
        calls += counts
        now = counts and calls == nth
        if now and when == "half":
            return _half(original(*args, **kwargs), strike, f"{when} {at}")
        if now and when == "before":
            _strike(strike, f"{when} {at} {holding or ''}")
        result = original(*args, **kwargs)
        if now and when == "after":
            _strike(strike, f"{when} {at} {holding or ''}")
        return result

    setattr(owner, name, wrapper)


def _holds(value: Any, words: str) -> bool:
    if not isinstance(value, list) or not all(isinstance(each, Record) for each in value):
        return False
    name, _, which = words.partition(" ")
    contents = [event.content for each in value if isinstance(event := decode(each.schema, each.value), Event)]
    return any(type(each).__name__ == name and _is(each, which) for each in contents)


def _is(content: Any, which: str) -> bool:
    return not which or which in (str(getattr(content, "to_stage", "")), str(getattr(content, "step", "")))


def _half(file: Any, strike: str, where: str) -> Any:
    """``file``, whose next write comes only half way."""

    def write(data: bytes) -> None:
        io.BufferedWriter.write(file, data[: len(data) // 2])
        file.flush()
        _strike(strike, where)

    file.write = write
    return file


def _strike(name: str, where: str) -> None:
    if name == "SLEEP":
        time.sleep(3600)
    with _appending if name == "SIGSTOP" else nullcontext():
        os.write(1, f"{name} {where}\n".encode())
        os.kill(os.getpid(), signal.Signals[name])
        time.sleep(0.5)  # SIGSTOP may reach this thread last


def _append_alone() -> None:
    """Whoever is stopped inside a transaction keeps the embedded log locked, for all: not what is tested here."""
    original = SqliteWriter.append

    def append(self: SqliteWriter, records: list[Record]) -> Any:
        with _appending:
            return original(self, records)

    SqliteWriter.append = append  # type: ignore[method-assign]
