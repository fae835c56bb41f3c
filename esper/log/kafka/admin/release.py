"""Which release of Apache Kafka a broker is, as far as one that is asked over the network can tell.

No broker tells its version. It tells which versions of the cluster's metadata it supports, and each release line
raises the newest: 4.2 can be told from 4.3, 4.3.0 not from 4.3.2. No client library of ours passes that answer on, so
this module asks for it itself, in the protocol's ApiVersions request (KIP-511, KIP-584).
"""

from __future__ import annotations

import socket
import ssl
import struct

from esper.connections import KafkaSettings

# The newest metadata.version of each release line.
_LINES = {25: "4.0", 27: "4.1", 29: "4.2", 30: "4.3"}
LOSES_COMMITS = "4.3"
"""The release line whose first two, 4.3.0 and 4.3.1, lose commits when a lone broker is killed (KAFKA-20734)."""

_API_VERSIONS, _VERSION, _CORRELATION = 18, 3, 1
_SUPPORTED_FEATURES = 0


def release_line(host: str, port: int, settings: KafkaSettings, *, timeout: float = 5.0) -> str | None:
    """Such as ``4.2``; None where the answer does not tell. Raises OSError when nobody answers."""
    newest = _newest_metadata(_asked(host, port, settings, timeout))
    if newest is None:
        return None
    return _LINES.get(newest) or (f"older than {_LINES[min(_LINES)]}" if newest < min(_LINES) else None)


def _asked(host: str, port: int, settings: KafkaSettings, timeout: float) -> bytes:
    """The body of the broker's answer. It is given before any log-in, but not outside TLS."""
    name = b"esper"
    request = struct.pack(">hhih", _API_VERSIONS, _VERSION, _CORRELATION, len(name)) + name + b"\0"
    request += bytes([len(name) + 1]) + name + b"\x02" + b"1" + b"\0"
    with (
        socket.create_connection((host, port), timeout=timeout) as plain,
        _secured(plain, host, settings) as connection,
    ):
        connection.sendall(struct.pack(">i", len(request)) + request)
        answer = _exactly(connection, int.from_bytes(_exactly(connection, 4)))
    if answer[:4] != struct.pack(">i", _CORRELATION):
        raise OSError("what answers is no Kafka broker")
    return answer[4:]


def _secured(plain: socket.socket, host: str, settings: KafkaSettings) -> socket.socket:
    if "ssl" not in settings.security:
        return plain
    context = ssl.create_default_context(cafile=settings.ca)
    if settings.certificate is not None:
        password = settings.key_password.get_secret_value() if settings.key_password else None
        context.load_cert_chain(settings.certificate, settings.key, password)
    return context.wrap_socket(plain, server_hostname=host)


def _exactly(connection: socket.socket, size: int) -> bytes:
    if not 0 <= size < 1 << 20:
        raise OSError("what answers is no Kafka broker")
    received = b""
    while len(received) < size:
        more = connection.recv(size - len(received))
        if not more:
            raise OSError("the connection was closed before an answer; the security settings may be wrong")
        received += more
    return received


def _newest_metadata(answer: bytes) -> int | None:
    fields = _Fields(answer)
    if fields.short():  # an error: a broker from before this request
        return None
    for _ in range(fields.count()):
        fields.skip(6)
        fields.skip_tags()
    fields.skip(4)
    for _ in range(fields.varint()):
        tag, size = fields.varint(), fields.varint()
        if tag != _SUPPORTED_FEATURES:
            fields.skip(size)
            continue
        for _ in range(fields.count()):
            name = fields.take(fields.count())
            _, newest = fields.short(), fields.short()
            fields.skip_tags()
            if name == b"metadata.version":
                return newest
    return None


class _Fields:
    """Reads the protocol's types one after another (KIP-482)."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, size: int) -> bytes:
        self.skip(size)
        return self._data[self._at - size : self._at]

    def skip(self, size: int) -> None:
        self._at += size
        if self._at > len(self._data):
            raise OSError("what answers is no Kafka broker")

    def short(self) -> int:
        return int.from_bytes(self.take(2), signed=True)

    def varint(self) -> int:
        value = shift = 0
        while True:
            (byte,) = self.take(1)
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def count(self) -> int:
        """The length of a compact string or array."""
        return max(0, self.varint() - 1)

    def skip_tags(self) -> None:
        for _ in range(self.varint()):
            self.varint()
            self.skip(self.varint())
