"""The log adapters that the contract tests run against, and a process of its own that appends."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from esper.log import open_log
from esper.log.port import Log
from tests.support.paths import ROOT

LOGS = ("sqlite", "kafka")


@pytest.fixture(params=LOGS)
def log_url_factory(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Makes the URL of a new, empty log of the adapter under test each time it is called."""
    if request.param == "kafka":
        factory: Callable[[], str] = request.getfixturevalue("kafka_log_url")
        return factory
    number = itertools.count()
    return lambda: f"sqlite:///{tmp_path}/home-{next(number)}/log.db"


@pytest.fixture
def url(log_url_factory: Callable[[], str]) -> str:
    """The URL of a new log of the adapter under test."""
    return log_url_factory()


@pytest.fixture
def log(url: str) -> Iterator[Log]:
    log = open_log(url)
    yield log
    log.close()


def child(*arguments: object) -> subprocess.Popen[str]:
    """``tests/support/logs/log_child.py`` in a process of its own; what it acknowledges is on its standard output."""
    command = [sys.executable, "-m", "tests.support.logs.log_child", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
