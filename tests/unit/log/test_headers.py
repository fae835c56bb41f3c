"""Headers as one blob."""

from __future__ import annotations

from esper.log.headers import pack, unpack


def test_headers_survive_packing() -> None:
    for headers in ((), (("", b""),), (("a", b"\n"), ("a", b"[]\n"), ("ü\n", bytes(range(256)) * 300))):
        assert unpack(pack(headers)) == headers
