"""Runs of ``moons`` one after another in one process."""

from __future__ import annotations

from typing import Any

import moons


def main(*runs: list[Any]) -> None:
    for arguments in runs:
        moons.main(*arguments)
