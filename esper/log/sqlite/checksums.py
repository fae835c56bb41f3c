"""A checksum of each record of the embedded log, in a table of its own: an older Esper writes records without one.

The table holds one of each schema's text as well, under the negative of the schema's number: a schema's fingerprint
does not cover its defaults and descriptions.
"""

from __future__ import annotations

from zlib import crc32

TABLE = "CREATE TABLE IF NOT EXISTS sums (offset INTEGER PRIMARY KEY, sum INTEGER NOT NULL)"


def checksum(
    topic: str,
    key: str,
    fingerprint: str,
    value: bytes,
    headers: bytes,
    time: int,
    epoch: int | None,
    number: int | None,
) -> int:
    """CRC-32 of a record's fields, of its value and of its headers as they are stored; ``time`` in ms since 1970.

    It tells damage, any within 32 bits for sure, and no forger, who would make another.
    """
    fields = repr((topic, key, fingerprint, len(value), time, epoch, number))
    return crc32(headers, crc32(value, crc32(fields.encode(errors="surrogatepass"))))


def checksum_of_schema(text: str) -> int:
    """CRC-32 of a schema's JSON."""
    return crc32(text.encode())
