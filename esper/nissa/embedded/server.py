"""Questions from other processes to the one that has an embedded database, over a Unix socket of this user's."""

from __future__ import annotations

import json
import os
import socket
import socketserver
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from esper.errors import AnalyticsError, EsperError, UsageError

LONGEST = 100
"""Bytes of a socket's path; the kernel takes a few more."""
ANSWER_TIMEOUT = 90.0
"""Seconds for an answer; a query has less."""
LOOK = 0.25
"""Seconds between two looks whether an answer is still waited for."""
_OK, _USAGE, _FAILED = b"0", b"1", b"2"
Answer = Callable[[str, Mapping[str, str], str, bool], bytes]


def socket_path(folder: Path) -> str:
    """Where the owner of the database in ``folder`` answers questions."""
    beside = str(folder.absolute().with_name(f"{folder.name}.sock"))
    return beside if len(beside.encode()) <= LONGEST else f"{tempfile.mkdtemp(prefix='esper-')}/sock"


@contextmanager
def serving(path: str, answer: Answer, cancel: Callable[[], None]) -> Iterator[None]:
    """Have ``answer`` answer what comes to the socket at ``path``, one question at a time; for this user alone.

    ``cancel`` ends the answer that is being made: nobody waits for it any more, or all of this ends.
    """
    turn, ending = threading.Lock(), threading.Event()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            try:
                asked = json.loads(self.rfile.readline())
                with turn, _watched(lambda: ending.is_set() or _left(self.connection), cancel):
                    reply = _OK + answer(asked["sql"], asked["parameters"], asked["form"], asked["write"])
            except EsperError as error:
                reply = (_USAGE if isinstance(error, UsageError) else _FAILED) + str(error).encode()
            with suppress(OSError):  # whoever asked has left
                self.wfile.write(reply)

    Path(path).unlink(missing_ok=True)
    before = os.umask(0o177)
    try:
        server = socketserver.ThreadingUnixStreamServer(path, Handler)
    finally:
        os.umask(before)
    thread = threading.Thread(target=server.serve_forever, name="esper-questions", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        ending.set()
        server.server_close()
        Path(path).unlink(missing_ok=True)


@contextmanager
def _watched(needless: Callable[[], bool], cancel: Callable[[], None]) -> Iterator[None]:
    """Cancel what is done within as soon as it is needless."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(LOOK):
            if needless():
                cancel()

    watcher = threading.Thread(target=watch, name="esper-watch", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _left(connection: socket.socket) -> bool:
    """Whether the other side has closed it."""
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def ask(path: str, sql: str, parameters: Mapping[str, str], form: str, write: bool) -> bytes:
    """What the owner of a database answers; raises as ``Questions.answer`` does, and AnalyticsError if it is gone."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_TIMEOUT)
            connection.connect(path)
            question = {"sql": sql, "parameters": dict(parameters), "form": form, "write": write}
            connection.sendall(json.dumps(question).encode() + b"\n")
            with connection.makefile("rb") as reply:
                outcome, body = reply.read(1), reply.read()
    except OSError as error:
        raise AnalyticsError(
            f"{path}: whoever has the database does not answer ({error}); look at esper sink"
        ) from error
    if outcome == _OK:
        return body
    raise (UsageError if outcome == _USAGE else AnalyticsError)(body.decode() or "the question was cut short")
