"""The command line as a program: ``command.main("train", "--task", "digits", ...)``."""

from __future__ import annotations

import sys

from esper.cli.main import main as esper


def main(*words: object) -> None:
    sys.exit(esper([str(word) for word in words]))
