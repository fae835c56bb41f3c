"""Running ``esper`` in tests: in this process where that is enough, as a process of its own where it matters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from esper.cli.main import main


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out.splitlines()[-1])


Esper = Callable[..., Result]


def runner(home: Path, capsys: pytest.CaptureFixture[str]) -> Esper:
    """``esper(*words)`` runs a command in ``home``."""
    return ending(capsys, "--home", home)


def ending(capsys: pytest.CaptureFixture[str], *last: object) -> Esper:
    """``esper(*words)`` runs a command that ends with ``last``."""

    def esper(*words: object) -> Result:
        capsys.readouterr()
        code = main([str(word) for word in (*words, *last)])
        return Result(code, *capsys.readouterr())

    return esper


def spawn(home: Path, *words: object) -> subprocess.Popen[str]:
    """``esper WORDS`` as a process, in a group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "esper", *map(str, words), "--home", str(home)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def wait_until(true: Callable[[], object], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what} did not come true in {seconds} s"
        time.sleep(0.02)
