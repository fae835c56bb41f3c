"""The partition of a key."""

from __future__ import annotations

import pytest

from esper.log.partitions import murmur2, partition_of


@pytest.mark.parametrize(
    ("key", "digest"),
    [
        ("21", -973932308),
        ("foobar", -790332482),
        ("a-little-bit-long-string", -985981536),
        ("a-little-bit-longer-string", -1486304829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        ("abc", 479470107),
    ],
)
def test_partitions_are_those_of_kafkas_java_clients(key: str, digest: int) -> None:
    assert murmur2(key.encode()) == digest
    assert partition_of(key) == (digest & 0x7FFFFFFF) % 12
