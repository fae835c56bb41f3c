"""What ``esper worker`` refuses before it asks anybody."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from esper.cli.main import main
from esper.errors import UsageError
from streams import commands
from tests.support.services.workers import free_port


def test_a_short_token_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for token in ("short", ""):
        monkeypatch.setenv("ESPER_WORKER_TOKEN", token)
        assert main(["worker", "--log", "kafka://127.0.0.1:1", "--port", str(free_port())]) == 2
        wanted = "esper: ESPER_WORKER_TOKEN is too short; give it 16 characters, as `openssl rand -hex 16` does\n"
        assert capsys.readouterr().err == wanted


def test_a_folder_is_one_workers_as_long_as_it_lives(tmp_path: Path) -> None:
    folder = tmp_path / "worker" / "one"
    held = commands._keep_folder(folder, "one")
    with pytest.raises(UsageError, match=rf"worker one \(process {os.getpid()}\).*{folder}.*another --name"):
        commands._keep_folder(folder, "one")
    os.close(held)  # as its end does
    os.close(commands._keep_folder(folder, "one"))
