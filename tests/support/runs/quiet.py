"""Trainings in a test's own process that are the same each time and wait for nobody."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch computes with one thread: sums come in one order."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal whose log is away tries again at once."""
    from esper.tolaria.journal import journal

    monkeypatch.setattr(journal, "FIRST_PAUSE", 0.001)
