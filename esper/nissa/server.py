"""Questions from other processes to the one that has an embedded database, over a Unix socket of this user's."""

from __future__ import annotations

import json
import os
import socket
import socketserver
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from esper.errors import AnalyticsError, EsperError, UsageError

LONGEST = 100
"""Bytes of a socket's path; the kernel takes a few more."""
PATIENCE = 90.0
"""Seconds for an answer; a query has less."""
_OK, _USAGE, _FAILED = b"0", b"1", b"2"
Answer = Callable[[str, Mapping[str, str], str, bool], bytes]


def socket_path(folder: Path) -> str:
    """Where the owner of the database in ``folder`` answers questions."""
    beside = str(folder.absolute().with_name(f"{folder.name}.sock"))
    return beside if len(beside.encode()) <= LONGEST else f"{tempfile.mkdtemp(prefix='esper-')}/sock"


@contextmanager
def serving(path: str, answer: Answer) -> Iterator[None]:
    """Have ``answer`` answer what comes to the socket at ``path``, one question at a time; for this user alone."""
    turn = threading.Lock()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            try:
                asked = json.loads(self.rfile.readline())
                with turn:
                    reply = _OK + answer(asked["sql"], asked["parameters"], asked["form"], asked["write"])
            except EsperError as error:
                reply = (_USAGE if isinstance(error, UsageError) else _FAILED) + str(error).encode()
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
        server.server_close()
        Path(path).unlink(missing_ok=True)


def ask(path: str, sql: str, parameters: Mapping[str, str], form: str, write: bool) -> bytes:
    """What the owner of a database answers; raises as ``Questions.answer`` does, and AnalyticsError if it is gone."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
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
