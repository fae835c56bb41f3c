"""Which partition a key lies in: the rule of Kafka's Java clients, so that every client agrees."""

from __future__ import annotations

from functools import lru_cache

from esper.events.topics import PARTITIONS

_SEED, _FACTOR, _WORD = 0x9747B28C, 0x5BD1E995, 0xFFFFFFFF


@lru_cache(maxsize=4096)
def partition_of(key: str, partitions: int = PARTITIONS) -> int:
    """The partition of ``key`` (as UTF-8) among ``partitions``: murmur2 without its sign, modulo."""
    return (murmur2(key.encode()) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """Murmur2 (Appleby) of ``data`` with Kafka's seed, as a signed 32-bit number."""
    mixed = _SEED ^ len(data)
    whole = len(data) & ~3
    for start in range(0, whole, 4):
        word = int.from_bytes(data[start : start + 4], "little") * _FACTOR & _WORD
        word = (word ^ word >> 24) * _FACTOR & _WORD
        mixed = (mixed * _FACTOR & _WORD) ^ word
    if whole < len(data):
        mixed = (mixed ^ int.from_bytes(data[whole:], "little")) * _FACTOR & _WORD
    mixed = (mixed ^ mixed >> 13) * _FACTOR & _WORD
    mixed ^= mixed >> 15
    return mixed - (1 << 32) if mixed >> 31 else mixed
