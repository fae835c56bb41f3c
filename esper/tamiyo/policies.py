"""The policies that this version knows: by name and version, each a pure function that anyone can compute again."""

from __future__ import annotations

from esper.tamiyo.heuristic import Heuristic
from esper.tamiyo.policy import Policy

POLICIES: dict[tuple[str, str], Policy] = {(policy.name, policy.version): policy for policy in (Heuristic(),)}
