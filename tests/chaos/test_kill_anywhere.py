"""kill -9 at any moment: the resumed run has the same weights, bit for bit, and the same history."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from esper.errors import DataUnavailable
from esper.tasks.fashion_mnist import folder
from tests.programs.moons import EPOCHS
from tests.support.logs.runlog import events, history, log_url
from tests.support.trainers import Progress, Trainer, Zygote, assert_nothing_left, rerun

pytestmark = pytest.mark.chaos
ROUNDS, KILLS = 4, 6


def chance(round_: int) -> random.Random:
    """Random moments of one round; the seed is printed, and ESPER_TEST_SEED repeats it."""
    seed = int(os.environ.get("ESPER_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
    print(f"ESPER_TEST_SEED={seed}, round {round_}")
    return random.Random(seed + round_)


def kill_again_and_again(
    moments: random.Random, home: Path, run_id: str, length: int, start: Callable[[bool], Trainer], most: int = KILLS
) -> int:
    """Kill at random places of the log, and in between while a trainer starts or replays; then let it end.

    ``start(begun)`` starts or resumes; the whole run has ``length`` events. Returns how often it was killed.
    """
    kills = most if log_url(home).startswith("sqlite") else most // 2  # a trainer on Kafka takes longer to begin
    places: list[int | None] = [*sorted(moments.sample(range(1, length * 17 // 20), kills * 2 // 3))]
    while len(places) < kills:
        places.insert(moments.randrange(len(places)), None)
    progress = Progress(home, run_id)
    for place in places:
        trainer = start(progress.look() > 0)
        if place is None:
            time.sleep(moments.uniform(0, 0.2))
        else:
            progress.wait(trainer, place)
            time.sleep(moments.uniform(0, 0.03))
        assert trainer.alive(), trainer.output
        trainer.kill()
        assert "exit" not in trainer.output
        print(f"killed at {progress.look()} of {length}, aimed at {place}")
    progress.close()
    trainer = start(bool(events(home, run_id)))
    assert trainer.exit_status() == 0, trainer.output
    assert_nothing_left(home, run_id)
    return kills


@pytest.fixture(scope="module")
def run_again() -> list[int]:
    """How many steps each round had to run again."""
    return []


def test_the_run_that_is_killed_keeps_seeds_and_culls_some(whole_history: list[tuple[str, Any]]) -> None:
    stages = [content["to_stage"] for name, content in whole_history if name == "SeedTransitioned"]
    assert stages.count("FOSSILISED") == 2
    assert "CULLED" in stages


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_a_run_killed_at_random_moments_ends_as_if_it_never_was(
    round_: int,
    zygote: Zygote,
    whole_history: list[tuple[str, Any]],
    whole_length: int,
    home: Path,
    run_again: list[int],
) -> None:
    def start(begun: bool) -> Trainer:
        return zygote.start("moons", ["resume" if begun else "start", str(home), "torn"], home / "output")

    kill_again_and_again(chance(round_), home, "torn", whole_length, start)
    run_again.append(rerun(home, "torn"))
    assert history(home, "torn") == whole_history


def test_kills_fall_between_checkpoints_too(run_again: list[int]) -> None:
    """Those of one run may all fall right behind a checkpoint, those of all rounds hardly."""
    assert len(run_again) < ROUNDS or sum(run_again) > 0


@pytest.mark.parametrize("task", ["digits", "fashion-mnist"])
def test_a_built_in_task_killed_at_random_moments_ends_as_if_it_never_was(
    task: str, zygote: Zygote, new_home: Callable[[str], Path]
) -> None:
    if task == "fashion-mnist":
        try:
            folder()
        except DataUnavailable as error:
            pytest.skip(str(error))
    options = [
        "--task",
        task,
        "--steps",
        400,
        "--seed",
        1,
        "--set",
        "training.steps=75",
        "--set",
        "checkpoint.steps=80",
    ]

    whole, torn = new_home("whole"), new_home("torn")

    def start(begun: bool, home: Path = torn) -> Trainer:
        words = ["resume", "run"] if begun else ["train", "--run-id", "run", *options]
        return zygote.start("command", [*words, "--json", "--home", str(home)], home / "output")

    reference = start(False, whole)
    assert reference.exit_status() == 0, reference.output
    expected = events(whole, "run")
    kill_again_and_again(chance(0), torn, "run", len(expected), start)
    assert history(torn, "run") == history(whole, "run")


def test_a_program_with_workers_that_is_killed_twenty_times_leaves_the_files_that_live_events_name(
    zygote: Zygote, whole_history: list[tuple[str, Any]], whole_length: int, tmp_path: Path
) -> None:
    home = tmp_path / "workers"
    home.mkdir()

    def start(begun: bool) -> Trainer:
        arguments = ["resume" if begun else "start", str(home), "torn", EPOCHS, [], [0, 0], 2]
        return zygote.start("moons", arguments, home / "output")

    assert kill_again_and_again(chance(9), home, "torn", whole_length, start, most=20) == 20
    assert history(home, "torn") == whole_history
