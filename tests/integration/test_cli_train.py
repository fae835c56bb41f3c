"""``esper train`` and ``resume``, and what other processes ask of a run."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

import esper as api
from esper.tasks import TASKS
from tests.support.command import Esper, runner, spawn, wait_until

DIGITS = ("train", "--task", "digits")
LAST_LINE = {
    "run_id",
    "status",
    "steps",
    "final_loss",
    "test_accuracy",
    "parameters_digest",
    "events",
    "seeds",
}


@pytest.fixture
def esper(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Esper:
    return runner(tmp_path, capsys)


def test_the_last_line_of_json_is_the_run(esper):
    result = esper(*DIGITS, "--steps", 60, "--run-id", "r", "--json")
    assert result.code == 0
    assert result.json.keys() == LAST_LINE
    assert (result.json["run_id"], result.json["status"], result.json["steps"]) == ("r", "completed", 60)
    assert 0.3 < result.json["test_accuracy"] < 1
    assert result.json["events"] == len(esper("events", "r", "--json").out.splitlines())
    assert result.out.count("\n") == 1


def test_people_see_the_seeds_the_accuracy_and_what_to_type_next(esper):
    quick = ("--set", "policy.warmup=0", "--set", "boundary.steps=5")
    result = esper(*DIGITS, "--steps", 30, "--run-id", "r", *quick)
    assert "#1" in result.out
    assert "test accuracy" in result.out
    program = "python -m esper"  # as these tests call it
    assert [line.removeprefix(f"  {program} ").split()[0] for line in result.out.splitlines()[-4:]] == [
        "why",
        "events",
        "verify",
        "report",
    ]
    assert "gate accuracy" in result.err


def test_the_seed_makes_the_run(esper):
    digests = [esper(*DIGITS, "--steps", 40, "--seed", seed, "--json").json["parameters_digest"] for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]


def test_steps_and_epochs_end_a_run_where_they_say(esper):
    assert esper(*DIGITS, "--epochs", 2, "--json").json["steps"] == 74
    assert esper(*DIGITS, "--steps", 74, "--json").json["steps"] == 74
    assert esper(*DIGITS, "--steps", 38, "--json").json["steps"] == 38


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "--task", "digit"], "did you mean digits?"),
        (["train"], "--task"),
        ([*DIGITS, "--steps", 3, "--epochs", 3], "give one of them"),
        ([*DIGITS, "--steps", 0], "--steps"),
        ([*DIGITS, "--set", "boundary.step=3"], "boundary.steps"),
        ([*DIGITS, "--set", "boundary.steps=x"], "boundary.steps=x"),
        ([*DIGITS, "--set", "policy.name=oracle"], "no policy 'oracle' (policy.name); here are: heuristic"),
        ([*DIGITS, "--run-id", "a/b"], "'a/b'"),
    ],
)
def test_wrong_usage_exits_2_and_writes_nothing(esper, tmp_path, words, said):
    result = esper(*words)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
    assert result.err.count("\n") == 1
    assert not (tmp_path / "log.db").exists()


def test_a_run_that_exists_is_an_error_that_names_resume(esper):
    esper(*DIGITS, "--steps", 5, "--run-id", "r")
    result = esper(*DIGITS, "--steps", 5, "--run-id", "r")
    assert result.code == 1
    assert result.err == (
        "esper: run r exists already; go on with `esper resume r`, or esper.resume('r', ...) from Python, or choose "
        "another run_id\n"
    )


def test_settings_of_the_task_the_environment_and_set_reach_the_run(esper, monkeypatch):
    monkeypatch.setenv("ESPER_BOUNDARY__STEPS", "7")
    esper(*DIGITS, "--steps", 15, "--run-id", "r", "--set", "policy.seeds=0")
    settings = json.loads(esper("show", "r", "--json").json["state"]["settings"])
    assert (settings["gate"]["folds"], settings["boundary"]["steps"], settings["policy"]["seeds"]) == (4, 7, 0)
    boundaries = esper("events", "r", "--type", "BoundaryReached", "--json").out.splitlines()
    assert [json.loads(line)["data"]["step"] for line in boundaries][:2] == [7, 14]


def test_a_completed_run_says_so_and_exits_0(esper):
    before = esper(*DIGITS, "--steps", 5, "--run-id", "r", "--json").json
    result = esper("resume", "r")
    assert result.code == 0
    line = result.out.splitlines()[1]
    assert line.startswith("run r is completed: 5 steps, loss ")
    assert line.endswith(", no seeds, 4 events; there is nothing to resume")
    assert esper("resume", "r", "--json").json == before


def test_ctrl_c_pauses_and_resume_goes_on_to_the_same_end(esper, tmp_path):
    expected = esper(*DIGITS, "--steps", 2000, "--run-id", "whole", "--json").json
    with spawn(tmp_path, *DIGITS, "--steps", 2000, "--run-id", "r", "--json") as process:
        wait_until(lambda: _steps(esper, "r") >= 50, "step 50")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["status"] == "paused"
    paused = [json.loads(line) for line in esper("events", "r", "--json").out.splitlines()]
    assert paused[-1]["type"] == "RunPaused"
    assert any(event["type"] == "CheckpointCommitted" for event in paused[-3:])
    resumed = esper("resume", "r", "--json").json
    assert resumed["status"] == "completed"
    for name in ("steps", "final_loss", "test_accuracy", "parameters_digest", "seeds"):
        assert resumed[name] == expected[name], name


def test_a_killed_run_reads_running_and_resumes(esper, tmp_path):
    with spawn(tmp_path, *DIGITS, "--steps", 2000, "--run-id", "r") as process:
        wait_until(lambda: _steps(esper, "r") >= 50, "step 50")
        os.killpg(process.pid, signal.SIGKILL)
    assert esper("runs", "--json").json["runs"][0]["status"] == "running"
    resumed = esper("resume", "r", "--json")
    assert (resumed.code, resumed.json["status"], resumed.json["steps"]) == (0, "completed", 2000)
    assert esper("verify", "r").code == 0


def test_another_process_pauses_a_run(esper, tmp_path):
    with spawn(tmp_path, *DIGITS, "--epochs", 2000, "--run-id", "r", "--json") as process:
        wait_until(lambda: _steps(esper, "r") >= 25, "step 25")
        asked = esper("pause", "r", "--reason", "lunch", "--json").json
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["status"] == "paused"
    (accepted,) = esper("events", "r", "--type", "CommandAccepted", "--json").out.splitlines()
    assert json.loads(accepted)["data"]["command"] == asked["id"]


def test_a_stop_sent_while_no_trainer_lives_counts(esper, tmp_path):
    with spawn(tmp_path, *DIGITS, "--epochs", 2000, "--run-id", "r") as process:
        wait_until(lambda: _steps(esper, "r") >= 25, "step 25")
        os.killpg(process.pid, signal.SIGKILL)
    told = esper("stop", "r")
    assert told.code == 0
    assert "when the run is resumed" in told.out
    result = esper("resume", "r", "--json")
    assert (result.code, result.json["status"]) == (0, "cancelled")
    again = esper("resume", "r")
    assert again.code == 1
    assert again.err == "esper: run r is cancelled (a stop command) and cannot be resumed; begin another\n"
    for words in (["pause", "r"], ["stop", "r"], ["seed", "cull", "r", "x#1"]):
        assert esper(*words).code == 1


def test_a_live_seed_is_culled_by_command_and_others_are_refused(esper, tmp_path):
    long = ("--set", "training.steps=100000", "--set", "policy.seeds=1", "--set", "policy.warmup=0")
    with spawn(tmp_path, *DIGITS, "--epochs", 2000, "--run-id", "r", *long) as process:
        wait_until(lambda: '"TRAINING"' in esper("show", "r", "--json").out, "a seed in training")
        (seed,) = esper("show", "r", "--json").json["seeds"]
        assert esper("seed", "cull", "r", "nothing#7").code == 2
        assert esper("seed", "cull", "r", seed["seed"]).code == 0
        wait_until(lambda: "CULLED" in esper("show", "r").out, "the cull")
        assert esper("seed", "cull", "r", seed["seed"]).code == 1
        os.killpg(process.pid, signal.SIGKILL)


def test_a_run_begun_from_python_shows_the_line_that_goes_on_with_it(esper, tmp_path):
    import torch

    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch = torch.zeros(4, 2)
    run = api.start(model, optimizer, lambda m, x: m(x).square().mean(1), home=tmp_path, run_id="mine")
    for _ in run.epochs(1):
        for each in run.batches([batch]):
            run.step(each)
        break
    result = esper("resume", "mine")
    assert result.code == 2
    assert "esper.resume('mine', model, optimizer, loss" in result.err


def test_both_tasks_are_there():
    assert set(TASKS) == {"digits", "fashion-mnist"}


def test_fashion_mnist_trains_where_its_data_is(esper):
    doctor = {each["name"]: each for each in esper("doctor", "--json").json["findings"]}
    if doctor["data of fashion-mnist"]["level"] != "ok":
        pytest.skip(doctor["data of fashion-mnist"]["found"])
    result = esper("train", "--task", "fashion-mnist", "--steps", 60, "--json")
    assert result.json["status"] == "completed"
    assert result.json["test_accuracy"] > 0.3
    started = esper("events", result.json["run_id"], "--type", "RunStarted", "--json").json["data"]
    assert len(started["data"]) == 4


def test_doctor_says_what_is_broken_and_how_to_mend_it(esper, tmp_path, monkeypatch, capsys):
    healthy = esper("doctor", "--json")
    assert (healthy.code, healthy.json["ok"]) == (0, True)
    names = {each["name"] for each in healthy.json["findings"]}
    assert {"Python", "torch", "SQLite", "log", "home", "disk", "data of digits", "data of fashion-mnist"} <= names
    (tmp_path / "log.db").write_text("this is no log, but a text that is long enough to look like none")
    broken = esper("doctor")
    assert broken.code == 1
    assert "log.db" in broken.out
    monkeypatch.setattr("apsw.sqlite_lib_version", lambda: "3.51.2")
    assert "WAL-reset" in runner(tmp_path / "other", capsys)("doctor").out


def _steps(esper: Esper, run_id: str) -> int:
    return next((run["steps"] for run in esper("runs", "--json").json["runs"] if run["run_id"] == run_id), 0)
