"""Brokers killed in the middle of a run: it goes on, or waits and says so; its history is that of a run undisturbed."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from esper.events.runs import RunResumed
from tests.chaos.test_kill_in_between import before
from tests.chaos.test_stopped_trainer import stopped
from tests.support.logs.runlog import LOG_URL, events, history
from tests.support.services.brokers import Brokers, new_log
from tests.support.trainers import Progress, Trainer, Zygote, assert_whole

pytestmark = [pytest.mark.chaos, pytest.mark.slow]
TIMEOUT = 3.0  # seconds after which a broker aborts a transaction, in the tests that wait for it


@pytest.fixture
def home(tmp_path: Path) -> Callable[[Brokers], Path]:
    """Makes a home whose log is on these brokers."""

    def make(brokers: Brokers) -> Path:
        (tmp_path / LOG_URL).write_text(new_log(brokers.addresses))
        return tmp_path

    return make


def come(trainer: Trainer, home: Path, sequence: int) -> None:
    progress = Progress(home, "torn")
    progress.wait(trainer, sequence)
    progress.close()


def resumes(home: Path) -> list[RunResumed]:
    return [event.content for event in events(home, "torn") if isinstance(event.content, RunResumed)]


def longest(trainer: Trainer) -> float:
    """Seconds of its longest append."""
    found = re.search(r"longest append ([\d.]+) s", trainer.output)
    assert found is not None, trainer.output
    print(found[0])
    return float(found[1])


def test_a_broker_killed_in_the_middle_of_a_run_and_started_again_changes_nothing(
    zygote: Zygote,
    whole_history: list[tuple[str, Any]],
    own_cluster: Callable[..., Brokers],
    home: Callable[[Brokers], Path],
) -> None:
    brokers = own_cluster(1)
    folder = home(brokers)
    trainer = zygote.start("outages", [{}, "moons", "start", str(folder), "torn"], folder / "output")
    for place in (25, 60):
        come(trainer, folder, place)
        brokers.kill(1)
        brokers.restart(1)
    assert trainer.exit_status() == 0, trainer.output
    longest(trainer)
    assert history(folder, "torn") == whole_history
    assert_whole(folder, "torn")


def test_a_broker_away_for_longer_than_a_transaction_may_last_makes_the_trainer_open_its_run_again(
    zygote: Zygote,
    whole_history: list[tuple[str, Any]],
    own_cluster: Callable[..., Brokers],
    home: Callable[[Brokers], Path],
) -> None:
    """Stopped in the middle of a transaction, so that it is sure to be open when the broker goes."""
    brokers = own_cluster(1)
    folder = home(brokers)
    commit = "esper.log.kafka.transactions:Transactions.commit"
    fault = {**before(commit, nth=20), "strike": "SIGSTOP"}
    wanted = {"transaction_timeout": TIMEOUT, "faults": [fault]}
    arguments = [wanted, "moons", "start", str(folder), "torn"]
    trainer = zygote.start("outages", arguments, folder / "output")
    stopped(trainer)
    brokers.kill(1)
    time.sleep(TIMEOUT + 1)
    brokers.restart(1)
    time.sleep(TIMEOUT + 2)  # the broker looks every second, from when it has loaded its state
    trainer.signal(signal.SIGCONT)
    assert trainer.exit_status() == 0, trainer.output
    assert "the log gave the writer up while it was away; it goes on with epoch 2" in trainer.output
    assert history(folder, "torn") == whole_history
    assert_whole(folder, "torn")
    (resumed,) = resumes(folder)
    assert "gave the writer up" in resumed.notes[0]


def test_a_broker_away_for_longer_than_patience_ends_the_training_and_resume_goes_on(
    zygote: Zygote,
    whole_history: list[tuple[str, Any]],
    own_cluster: Callable[..., Brokers],
    home: Callable[[Brokers], Path],
) -> None:
    brokers = own_cluster(1)
    folder = home(brokers)
    arguments = ["start", str(folder), "torn"]
    trainer = zygote.start("moons", arguments, folder / "output", ESPER_LOG__PATIENCE="3")
    come(trainer, folder, 30)
    brokers.kill(1)
    began = time.monotonic()
    assert trainer.exit_status() == 1
    print(f"ended {time.monotonic() - began:.1f} s after the kill")
    url = (folder / LOG_URL).read_text()
    assert trainer.output.count(f"run torn: training waits for the log {url}, up to 3 s") == 1
    assert f"run torn: the log {url} did not answer for 3 s; see that it is reachable" in trainer.output
    brokers.restart(1)
    trainer = zygote.start("moons", ["resume", str(folder), "torn"], folder / "output")
    assert trainer.exit_status() == 0, trainer.output
    assert history(folder, "torn")[1:] == whole_history[1:]  # but for the settings in RunStarted
    assert_whole(folder, "torn")


@pytest.mark.slow
def test_on_three_brokers_any_one_may_be_killed_and_no_commit_takes_long(
    zygote: Zygote,
    whole_history: list[tuple[str, Any]],
    own_cluster: Callable[..., Brokers],
    home: Callable[[Brokers], Path],
) -> None:
    brokers = own_cluster(3)
    folder = home(brokers)
    all_killed = folder / "all-killed"
    arguments = [{"slow_until": str(all_killed)}, "moons", "start", str(folder), "torn"]
    trainer = zygote.start("outages", arguments, folder / "output")
    progress = Progress(folder, "torn")
    for number in (1, 2, 3):
        progress.wait(trainer, progress.look() + 5)
        brokers.kill(number)
        progress.wait(trainer, progress.look() + 5)
        brokers.restart(number)
    progress.close()
    all_killed.touch()
    assert trainer.exit_status() == 0, trainer.output
    assert "did not answer" not in trainer.output
    assert history(folder, "torn") == whole_history
    assert_whole(folder, "torn")
    assert longest(trainer) <= 20


@pytest.mark.slow
def test_on_three_brokers_with_two_killed_the_run_waits_until_one_is_back(
    zygote: Zygote,
    whole_history: list[tuple[str, Any]],
    own_cluster: Callable[..., Brokers],
    home: Callable[[Brokers], Path],
) -> None:
    brokers = own_cluster(3)
    folder = home(brokers)
    trainer = zygote.start("outages", [{}, "moons", "start", str(folder), "torn"], folder / "output")
    come(trainer, folder, 30)
    for number in (2, 3):
        brokers.kill(number)
    deadline = time.monotonic() + 60
    said = f"run torn: training waits for the log {(folder / LOG_URL).read_text()}"
    while said not in trainer.output:
        assert trainer.alive(), trainer.output
        assert time.monotonic() < deadline, trainer.output
        time.sleep(0.05)
    time.sleep(5)
    assert trainer.alive(), trainer.output
    brokers.restart(2)
    assert trainer.exit_status() == 0, trainer.output
    longest(trainer)
    assert history(folder, "torn") == whole_history
    assert_whole(folder, "torn")
