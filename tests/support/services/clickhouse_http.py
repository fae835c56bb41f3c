"""Not a ClickHouse server: the embedded engine behind ClickHouse's HTTP protocol, as far as our client uses it.

A stand-in where no server can be had: what is sent over HTTP and how its answers are read is run for real, and so are
database names, settings and parameters in the address, errors in headers, and chunked, compressed inserts. What a
server does of its own is not here: passwords, rights, sessions, replicas, a disk that is full. Users are those of
PROFILES, and ``unlucky``, whose inserts are executed but never answered.

    python -m tests.support.services.clickhouse_http PORT FOLDER      # until it is ended
    ESPER_TEST_CLICKHOUSE=clickhouse://127.0.0.1:PORT pytest tests/integration/test_sink.py
"""

from __future__ import annotations

import re
import socket
import struct
import sys
import tempfile
import threading
from base64 import b64decode
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

TRANSPORT = {"query", "database", "wait_end_of_query", "client_protocol_version", "session_id", "query_id"} | {
    "send_progress_in_http_headers",
    "http_headers_progress_interval_ms",
    "enable_http_compression",
}
"""Parameters of a request that are no settings of the engine."""
PROFILES = {"reader": {"readonly": "1"}, "careful": {"readonly": "2"}}
"""What a user's settings are, before the request's own."""
_INSERT = re.compile(rb"\s*(INSERT INTO [^\n]+? FORMAT \w+)\n", re.IGNORECASE)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    folder = ""
    turn = threading.Lock()

    def do_GET(self) -> None:
        self._answer({} if self.user in PROFILES else {"readonly": "2"}, b"")

    def do_POST(self) -> None:
        self._answer({}, self._body())

    @property
    def user(self) -> str:
        return b64decode(self.headers.get("Authorization", "Basic ").split()[-1]).decode().partition(":")[0]

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def _answer(self, settings: dict[str, str], body: bytes) -> None:
        asked = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        if (kind := self.headers.get("Content-Type", "")).startswith("multipart/form-data"):  # long parameters
            form = message_from_bytes(f"Content-Type: {kind}\n\n".encode() + body)
            parts = {str(part.get_param("name", header="Content-Disposition")): part for part in form.get_payload()}
            asked |= {name: part.get_payload(decode=True).decode() for name, part in parts.items()}
            body = b""
        settings = {**settings, **{name: to for name, to in asked.items() if not name.startswith("param_")}}
        given = {name.removeprefix("param_"): to for name, to in asked.items() if name.startswith("param_")}
        try:
            with self.turn:
                reply = self._run(asked.get("query", ""), body, asked.get("database", ""), settings, given)
        except RuntimeError as error:
            code = re.search(r"Code: (\d+)", str(error))
            self._reply(500, str(error).encode(), {"X-ClickHouse-Exception-Code": code[1] if code else "1001"})
        else:
            if self.user == "unlucky" and body.lstrip().startswith(b"INSERT"):
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()  # with a reset
                self.close_connection = True
            else:
                self._reply(200, reply, {})

    def _run(
        self, query: str, body: bytes, database: str, settings: dict[str, str], parameters: dict[str, str]
    ) -> bytes:
        import chdb

        connection = chdb.connect(self.folder)
        try:
            if database:
                connection.query("USE `{}`".format(database.replace("`", "\\`")))
            changes = ", ".join(f"{name} = '{value}'" for name, value in settings.items() if name not in TRANSPORT)
            for name, value in PROFILES.get(self.user, {}).items():
                connection.query(f"SET {name} = '{value}'")
            if changes:
                connection.query(f"SET {changes}")
            insert = None if query else _INSERT.match(body)
            if insert:
                query, body = insert[1].decode(), body[insert.end() :]
            elif not query:
                query, body = body.decode(), b""
            with tempfile.NamedTemporaryFile() as data:
                if body:
                    data.write(body)
                    data.flush()
                    query = re.sub(r"(?i) FORMAT (\w+)$", rf" FROM INFILE '{data.name}' FORMAT \1", query)
                return bytes(connection.query(query, "TabSeparated", params=parameters).bytes())
        finally:
            connection.close()

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            body = b"".join(parts)
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "lz4":
            import lz4.frame

            body = lz4.frame.decompress(body)
        return body

    def _reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "X-ClickHouse-Timezone": "UTC", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def serve(port: int, folder: str) -> None:
    """Serve the engine with its data in ``folder`` on loopback; prints the port once it is ready."""
    import chdb

    Handler.folder = folder
    kept = chdb.connect(folder)  # the engine ends with its last connection
    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        print(server.server_port, flush=True)
        try:
            server.serve_forever()
        finally:
            kept.close()


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2])
