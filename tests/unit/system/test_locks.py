"""Locks that go with the process that has them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from esper.system.locks import locked, share

HOLDER = """
import sys
from esper.system import locks

file = open(sys.argv[1])
{take}
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "lock"
    path.touch()
    return path


@pytest.fixture(params=["locks.locked(file.fileno())", "locks.share(file.fileno())"], ids=["alone", "shared"])
def holder(path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the lock."""
    program = [sys.executable, "-c", HOLDER.format(take=request.param), str(path)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_nobody_has_it_alone_while_another_process_has_it_and_once_that_is_killed_it_is_free(
    path: Path, holder: subprocess.Popen[str]
) -> None:
    with path.open() as file:
        assert not locked(file.fileno())
        holder.kill()
        holder.wait()
        assert locked(file.fileno())


def test_it_is_free_again_when_the_file_is_closed(path: Path) -> None:
    with path.open() as one, path.open() as other:
        assert locked(one.fileno())
        assert not locked(other.fileno())
        one.close()
        assert locked(other.fileno())


def test_any_number_may_share_it(path: Path) -> None:
    with path.open() as one, path.open() as other, path.open() as third:
        share(one.fileno())
        share(other.fileno())
        assert not locked(third.fileno())
        one.close()
        assert not locked(third.fileno())
        other.close()
        assert locked(third.fileno())


def test_an_error_that_is_no_rivals_lock_is_told() -> None:
    with closing(open(os.devnull)) as file:
        descriptor = file.fileno()
    with pytest.raises(OSError, match="Bad file descriptor"):
        locked(descriptor)
