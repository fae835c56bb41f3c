"""The policy's random numbers: computed from what they are asked for alone, so that anyone can draw them again."""

from __future__ import annotations

import hashlib


def uniform(seed: int, step: int, purpose: str) -> float:
    """A number in [0, 1) with 53 random bits, the same for the same arguments on every machine."""
    digest = hashlib.sha256(f"{seed}/{step}/{purpose}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / (1 << 53)
