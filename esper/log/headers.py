"""Headers as one blob: a line of JSON with names and lengths, then the values, one after another."""

from __future__ import annotations

import json
from functools import lru_cache
from struct import Struct

Headers = tuple[tuple[str, bytes], ...]


def pack(headers: Headers) -> bytes:
    """The blob of ``headers``, which may repeat a name; order is kept."""
    if not headers:
        return b""
    names, values = zip(*headers, strict=True)
    return _line(names, tuple(map(len, values))) + b"".join(values)


def unpack(blob: bytes) -> Headers:
    """The headers that ``pack`` made the blob of."""
    if not blob:
        return ()
    line, _, values = blob.partition(b"\n")
    names, layout = _layout(line)
    return tuple(zip(names, layout.unpack(values), strict=True))


@lru_cache(maxsize=4096)
def _line(names: tuple[str, ...], lengths: tuple[int, ...]) -> bytes:
    return json.dumps(list(zip(names, lengths, strict=True)), separators=(",", ":")).encode() + b"\n"


@lru_cache(maxsize=4096)
def _layout(line: bytes) -> tuple[tuple[str, ...], Struct]:
    pairs = json.loads(line)
    return tuple(name for name, _ in pairs), Struct("".join(f"{length}s" for _, length in pairs))
