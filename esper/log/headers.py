"""A record's headers as one blob, for the embedded log: a line of JSON with names and lengths, then the values in a
row."""

from __future__ import annotations

import json
from functools import lru_cache
from struct import Struct
from struct import error as StructError

from esper.errors import DecodeError

Headers = tuple[tuple[str, bytes], ...]


def pack(headers: Headers) -> bytes:
    """The blob of ``headers``, which may repeat a name; order is kept."""
    if not headers:
        return b""
    names, values = zip(*headers, strict=True)
    return _line(names, tuple(map(len, values))) + b"".join(values)


def unpack(blob: bytes) -> Headers:
    """The headers that ``pack`` made the blob of; raises DecodeError for any other."""
    if not blob:
        return ()
    if not isinstance(blob, bytes):
        raise DecodeError("its headers are damaged (they are no bytes)")
    line, _, values = blob.partition(b"\n")
    try:
        names, layout = _layout(line)
        if not names:
            raise ValueError("they name none")
        return tuple(zip(names, layout.unpack(values), strict=True))
    except (ValueError, TypeError, MemoryError, OverflowError, StructError) as error:
        raise DecodeError(f"its headers are damaged ({error})") from error


@lru_cache(maxsize=4096)
def _line(names: tuple[str, ...], lengths: tuple[int, ...]) -> bytes:
    return json.dumps(list(zip(names, lengths, strict=True)), separators=(",", ":")).encode() + b"\n"


@lru_cache(maxsize=4096)
def _layout(line: bytes) -> tuple[tuple[str, ...], Struct]:
    pairs = json.loads(line)
    return tuple(name for name, _ in pairs), Struct("".join(f"{length}s" for _, length in pairs))
