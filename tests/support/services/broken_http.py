"""Requests that are no HTTP, or nearly none, and what a listener answers to them."""

from __future__ import annotations

import contextlib
import socket
import struct

_HEAD = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
_POST = b"POST /health HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
BROKEN = {
    "garbage": b"\x00\xff\x13garbage\r\n\r\n",
    "TLS": bytes.fromhex("16030100a5010000a10303"),
    "a line without end": b"a" * 100_000,
    "a path that is too long": b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a header that is too long": _HEAD + b"X: " + b"a" * 20_000 + b"\r\n\r\n",
    "too many headers": _HEAD + b"".join(b"X%d: a\r\n" % number for number in range(5000)) + b"\r\n",
    "a chunk's size that is no number": _POST + b"\r\nzz\r\nabc\r\n0\r\n\r\n",
    "a chunk that is too long": _POST + b"\r\n3\r\nabcdef\r\n0\r\n\r\n",
    "two lengths": _POST + b"Content-Length: 5\r\n\r\n0\r\n\r\n",
    "a negative length": _HEAD + b"Content-Length: -5\r\n\r\n",
    "what is not compressed": _HEAD + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    "a NUL in the path": b"GET /heal\x00th HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "an escaped NUL in the path": b"GET /api/v1/runs/a%00b HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "half an address": b"GET http://[::1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "another version": b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "two hosts": _HEAD + b"Host: stranger\r\n\r\n",
    "a header that is no text": _HEAD + b"Authorization: \xff\xfe\r\n\r\n",
    "half a request": b"GET /health HTT",
}


def send(port: int, request: bytes) -> bytes:
    """Send ``request`` and, when an answer has come or none is to come, go away without a word; returns the answer."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(0.5)
        answer = b""
        with contextlib.suppress(OSError):
            connection.sendall(request)
            answer = connection.recv(65536)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
    return answer
