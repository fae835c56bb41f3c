from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.logs.runlog import LOG_URL, events, history
from tests.support.trainers import Zygote


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    process = Zygote()
    yield process
    process.close()


@pytest.fixture
def new_home(log_url_factory: Callable[[], str], tmp_path: Path) -> Callable[[str], Path]:
    """Makes a folder for runs, whose log is a new one of the adapter under test."""

    def make(name: str) -> Path:
        home = tmp_path / name
        home.mkdir()
        (home / LOG_URL).write_text(log_url_factory())
        return home

    return make


@pytest.fixture
def home(new_home: Callable[[str], Path]) -> Path:
    return new_home("home")


@pytest.fixture(scope="session")
def whole(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of an uninterrupted run ``whole`` of moons, on the embedded log: all others are compared with it."""
    home = tmp_path_factory.mktemp("whole")
    trainer = zygote.start("moons", ["start", str(home), "whole"], home / "output")
    assert trainer.exit_status() == 0, trainer.output
    return home


@pytest.fixture(scope="session")
def whole_history(whole: Path) -> list[tuple[str, Any]]:
    return history(whole, "whole")


@pytest.fixture(scope="session")
def whole_length(whole: Path) -> int:
    """The last sequence number of ``whole``."""
    return events(whole, "whole")[-1].envelope.sequence or 0
