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


RESTS = [
    275646681,
    -1563381124,
    316155434,
    479470107,
    -1323649548,
    461995741,
    1870650108,
    -346467175,
]


def test_the_digest_of_each_rest_of_a_word_is_that_of_murmur2() -> None:
    assert [murmur2(b"abcdefg"[:length]) for length in range(8)] == RESTS
