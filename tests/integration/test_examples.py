"""The programs in examples/ do what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT

EXAMPLES = ROOT / "examples"


def said(name: str, *words: object, **environment: str) -> str:
    """What the example prints."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A home with the run of own_loop.py, and what that printed."""
    home = tmp_path_factory.mktemp("home")
    return home, said("own_loop.py", home)


def test_a_loop_of_ones_own_keeps_a_seed_that_helps(trained: tuple[Path, str]) -> None:
    _, words = trained
    told = re.search(r"accuracy (0\.\d+), seeds (.*)$", words, re.MULTILINE)
    assert told is not None
    assert "'FOSSILISED': 1" in told[2]
    assert float(told[1]) > 0.7  # a linear host guesses: half


def test_questions_are_answered_and_drawn(trained: tuple[Path, str], tmp_path: Path) -> None:
    home, words = trained
    run_id = re.findall(r"^run (\S+):", words, re.MULTILINE)[-1]
    out = tmp_path / "loss.svg"
    told = said("questions.py", home, run_id, out)
    assert re.search(r"step +\d+ +0#2 FOSSILISED", told)
    assert re.search(r"^[▁▂▃▄▅▆▇█]{40,}$", told, re.MULTILINE)
    drawn = out.read_text("utf-8")
    assert drawn.startswith("<svg ")
    assert "0#2 FOSSILISED</text>" in drawn


@pytest.mark.slow
def test_a_killed_training_is_resumed_to_the_same_weights(tmp_path: Path) -> None:
    told = said("killed_and_resumed.py", tmp_path)
    assert "its exit code is -9" in told
    assert "run whole: completed, resumed 0 times" in told
    assert "run torn: completed, resumed 1 times" in told
    assert "all equal, bit for bit" in told


@pytest.mark.slow
def test_a_command_over_kafka_pauses_a_running_training(
    shared_brokers: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from tests.support.services.brokers import new_log

    monkeypatch.setenv("ESPER_REGISTRY", shared_brokers.registry)
    url = new_log(shared_brokers.addresses)
    subprocess.run(
        [sys.executable, "-m", "esper", "topics", "init"],
        env={**os.environ, "ESPER_LOG": url},
        check=True,
        capture_output=True,
    )
    told = said("commands_over_kafka.py", tmp_path, ESPER_LOG=url)
    asked = re.search(r"asked \S+ to pause: (\S+)", told)
    assert asked is not None
    assert re.search(rf"accepted {asked[1]} at step \d+; the run is paused", told)


def test_every_example_is_run_here() -> None:
    ours = Path(__file__).read_text("utf-8")
    assert all(f'said("{example.name}"' in ours for example in EXAMPLES.glob("*.py"))
