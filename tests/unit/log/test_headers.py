"""Headers as one blob."""

from __future__ import annotations

import pytest

from esper.errors import DecodeError
from esper.log.headers import pack, unpack


def test_headers_survive_packing() -> None:
    for headers in ((), (("", b""),), (("a", b"\n"), ("a", b"[]\n"), ("ü\n", bytes(range(256)) * 300))):
        assert unpack(pack(headers)) == headers


def test_a_blob_is_a_line_with_names_and_lengths_and_then_the_values() -> None:
    assert pack((("a", b"12"), ("b", b""), ("a", b"\n"))) == b'[["a",2],["b",0],["a",1]]\n12\n'


@pytest.mark.parametrize(
    "blob",
    [
        b"\n",
        b"{",
        b'[["a",2]]\n1',
        b'[["a",2]]\n123',
        b'[["a"]]\n',
        b'[["a",-1]]\n',
        b'[["a","2"]]\n12x',
        b"[1]\n",
        b"null\n",
        b"[]",
        b"[]\n",
        b'[["a",99999999999999999999]]\n',
        b"\xff\n",
    ],
)
def test_a_blob_that_pack_did_not_make_is_damaged(blob: bytes) -> None:
    with pytest.raises(DecodeError, match=r"^its headers are damaged \("):
        unpack(blob)


def test_what_is_no_blob_is_damaged() -> None:
    with pytest.raises(DecodeError, match=r"^its headers are damaged \(they are no bytes\)$"):
        unpack("[]\n")  # type: ignore[arg-type]
