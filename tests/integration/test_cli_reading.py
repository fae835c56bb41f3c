"""``esper runs``, ``show``, ``events``, ``why`` and ``verify``, over runs that were really trained."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import pytest

from esper.cli.main import main
from esper.errors import RunEnded
from esper.events import RunContent, runs
from esper.log import open_log
from esper.log.records import event_of, run_record
from esper.settings import log_url
from tests.support.command import Esper, runner, spawn
from tests.support.logs.foreign import inject

QUICK = (
    "--set",
    "boundary.steps=25",
    "--set",
    "training.steps=75",
    "--set",
    "policy.warmup=25",
    "--set",
    "verdict.measurements=2",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a completed run of digits, ``done``, in which a seed got its verdict."""
    folder = tmp_path_factory.mktemp("home")
    assert main(["train", "--task", "digits", "--steps", "200", "--run-id", "done", "--home", str(folder), *QUICK]) == 0
    return folder


@pytest.fixture
def esper(home: Path, capsys: pytest.CaptureFixture[str]) -> Esper:
    return runner(home, capsys)


def test_reading_where_nothing_is_makes_no_files(tmp_path, capsys):
    empty = tmp_path / "nowhere"
    esper = runner(empty, capsys)
    assert esper("runs", "--json").json == {"runs": []}
    assert "no runs" in esper("runs").out
    for command in (
        ["show", "x"],
        ["events", "x"],
        ["verify", "x"],
        ["why", "x", "y"],
        ["pause", "x"],
        ["resume", "x"],
    ):
        result = esper(*command)
        assert (result.code, result.out) == (1, "")
        assert result.err.startswith("esper: there is no run 'x'")
        assert result.err.count("\n") == 1
    assert not empty.exists()


def test_runs_lists_every_run_with_its_status(esper):
    (run,) = esper("runs", "--json").json["runs"]
    assert {name: run[name] for name in ("run_id", "status", "steps", "task")} == {
        "run_id": "done",
        "status": "completed",
        "steps": 200,
        "task": "digits",
    }
    assert sum(run["seeds"].values()) >= 1
    [row] = [line.split() for line in esper("runs").out.splitlines() if line.split()[:1] == ["done"]]
    assert row[:4] == ["done", "completed", "digits", "200"]


def test_a_run_that_cannot_be_read_does_not_hide_the_others(home, tmp_path, capsys):
    copied = _copy(home, tmp_path)
    log = open_log(log_url(copied))
    writer = log.open_writer("broken")
    writer.append([_record("broken", runs.RunPaused(step=1, reason=""), writer.epoch, 1)])
    log.close()
    result = runner(copied, capsys)("runs", "--json")
    told = {run["run_id"]: run["status"] for run in result.json["runs"]}
    assert told == {"done": "completed", "broken": None}
    assert result.code == 1
    assert result.err.splitlines()[0] == (
        "esper: run broken: none of its records can be read as an event; is another program writing to esper.runs?"
    )
    assert "(a RunPaused cannot begin epoch 1: a writer begins with RunStarted or RunResumed)" in result.err


@pytest.mark.parametrize("time", [b"yesterday", b"\xff", b"2020-01-01T00:00:00", None])
def test_a_record_of_others_does_not_keep_runs_from_being_listed(home, tmp_path, capsys, time):
    copied = _copy(home, tmp_path)
    inject(log_url(copied), "esper.runs", "strange", b"x", (("ce_time", time),) if time else ())
    told = runner(copied, capsys)("runs", "--json").json["runs"]
    assert [run["run_id"] for run in told] == ["done", "strange"]


def test_a_run_none_of_whose_records_is_an_event_is_a_line_of_its_own(home, tmp_path, capsys):
    copied = _copy(home, tmp_path)
    inject(log_url(copied), "esper.runs", "strange", b"hello", ())
    result = runner(copied, capsys)("runs")
    assert result.code == 1
    rows = [line.split()[:2] for line in result.out.splitlines()]
    assert ["done", "completed"] in rows
    assert ["strange", "unreadable"] in rows
    assert "esper: run strange: none of its records can be read as an event" in result.err


def test_show_tells_the_state_at_the_end_at_an_event_and_at_a_step(esper):
    whole = esper("show", "done", "--json").json
    assert whole["status"] == "completed"
    assert whole["state"]["seeds"].keys() == {seed["seed"] for seed in whole["seeds"]}
    assert len(whole["digest"]) == 64
    last = whole["sequence"]
    assert esper("show", "done", "--at", last, "--json").json == whole
    earlier = esper("show", "done", "--at", last - 1, "--json").json
    assert earlier["status"] == "running"
    assert earlier["digest"] != whole["digest"]
    assert esper("show", "done", "--step", 200, "--json").json == whole
    half = esper("show", "done", "--step", 110, "--json").json
    assert half["steps"] == 100
    assert half == esper("show", "done", "--at", half["sequence"], "--json").json
    assert "0#1" not in esper("show", "done", "--step", 0).out


def test_show_prints_the_same_digest_in_every_process(esper, home):
    digest = esper("show", "done", "--json").json["digest"]
    for salt in ("1", "2"):
        command = [sys.executable, "-m", "esper", "show", "done", "--json", "--home", str(home)]
        printed = subprocess.run(command, capture_output=True, text=True, env={"PYTHONHASHSEED": salt}, check=True)
        assert json.loads(printed.stdout)["digest"] == digest


@pytest.mark.parametrize(
    "place", [("--at", 0), ("--at", 10_000), ("--step", 201), ("--at", 3, "--step", 3), ("--step", -1)]
)
def test_show_of_a_place_that_is_not_there_is_wrong_usage(esper, place):
    result = esper("show", "done", *place)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)


def test_events_are_one_json_object_a_line(esper):
    events = [json.loads(line) for line in esper("events", "done", "--json").out.splitlines()]
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    keys = {"id", "type", "time", "writer", "epoch", "sequence", "position", "data"}
    assert all(event.keys() == keys for event in events)
    assert events[0]["type"] == "RunStarted"
    assert events[0]["data"]["seed"] == 0
    assert events[-1]["data"]["step"] == 200
    assert len(esper("events", "done").out.splitlines()) == len(events)


def test_events_of_one_type_by_short_or_full_name(esper):
    short = esper("events", "done", "--type", "SeedTransitioned", "--json").out
    assert short == esper("events", "done", "--type", "esper.runs.SeedTransitioned", "--json").out
    data = [json.loads(line)["data"] for line in short.splitlines()]
    assert data[0]["from_stage"] == "DORMANT"
    assert all({"site", "seed", "from_stage", "to_stage", "step"} <= each.keys() for each in data)


def test_an_unknown_type_is_wrong_usage_and_lists_the_types(esper):
    result = esper("events", "done", "--type", "SeedTransition")
    assert result.code == 2
    types = ", ".join(each.__name__ for each in get_args(RunContent))
    assert result.err == (
        f"esper: there is no event type 'SeedTransition'; did you mean SeedTransitioned? a run has {types}\n"
    )


def test_following_ends_with_the_run(esper):
    assert esper("events", "done", "--follow", "--json").out == esper("events", "done", "--json").out


def test_whoever_stops_reading_ends_the_command_quietly(home):
    with spawn(home, "events", "done", "--json") as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_why_tells_a_seeds_chain_of_causes(esper):
    seed = esper("show", "done", "--json").json["seeds"][0]["seed"]
    chain = esper("why", "done", seed, "--json").json["chain"]
    assert {"measurements", "decision", "kernel", "verdict", "outcome"} <= {link["kind"] for link in chain}
    assert len(esper("why", "done", seed).out.splitlines()) == len(chain)
    unknown = esper("why", "done", "nothing#1")
    assert unknown.code == 2
    assert seed in unknown.err


def test_verify_computes_a_run_again(esper):
    result = esper("verify", "done", "--json")
    assert (result.code, result.json["ok"], result.json["findings"]) == (0, True, [])
    assert result.json["counts"]["decisions"] >= 5
    assert "all agree" in esper("verify", "done").out


def test_verify_finds_a_decision_that_does_not_follow(home, tmp_path, capsys):
    copied = _copy(home, tmp_path)
    log = open_log(log_url(copied))
    _forge(log, "done", "forged")
    log.close()
    esper = runner(copied, capsys)
    result = esper("verify", "forged", "--json")
    assert result.code == 1
    assert any("propensity" in finding["what"] for finding in result.json["findings"])
    assert "do not agree" in esper("verify", "forged").out


def test_commands_that_read_import_no_torch(home):
    program = """
import sys
from esper.cli.main import main
for words in (["--help"], ["runs"], ["show", "done"], ["events", "done"], ["verify", "done"], ["resume", "done"]):
    assert main([*words, *([] if words == ["--help"] else ["--home", sys.argv[1]])]) == 0, words
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program, str(home)], check=True, stdout=subprocess.DEVNULL)


def test_a_log_can_be_named_by_its_url(home, tmp_path, capsys):
    result = runner(tmp_path / "elsewhere", capsys)("show", "done", "--json", "--log", log_url(home))
    assert result.json["run_id"] == "done"
    assert runner(tmp_path, capsys)("runs", "--log", "ftp://x").code == 2


def test_the_home_may_come_from_the_environment(home, monkeypatch, capsys):
    monkeypatch.setenv("ESPER_HOME", str(home))
    assert main(["runs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["run_id"] == "done"


def test_an_error_is_one_line_and_debug_shows_where(esper, home):
    assert esper("show", "don").err == (f"esper: there is no run 'don' in {log_url(home)}; did you mean done?\n")
    debug = esper("show", "don", "--debug").err.splitlines()
    assert debug[0] == "Traceback (most recent call last):"
    assert debug[-1] == f"esper: there is no run 'don' in {log_url(home)}; did you mean done?"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["unknown"], "esper: No such command 'unknown'; see esper --help"),
        (["show"], "esper: Missing argument 'RUN'; see esper show --help"),
        (["show", "done", "--unknown"], "esper: No such option: --unknown; see esper show --help"),
        (["seed"], "Usage: esper seed [OPTIONS] COMMAND [ARGS]..."),
        (["events", "a", "b"], "esper: Got unexpected extra argument (b); see esper events --help"),
    ],
)
def test_wrong_usage_exits_2(words, said, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err.splitlines()[0] == said


def test_every_command_explains_itself_and_has_the_common_options(capsys):
    commands = ["train", "resume", "runs", "show", "events", "why", "verify", "pause", "stop", "doctor"]
    for words in (*([command] for command in commands), ["seed", "cull"]):
        assert main([*words, "--help"]) == 0
        told = capsys.readouterr().out
        assert all(option in told for option in ("--home", "--json", "--log", "--debug")), words


def test_a_run_that_ended_in_good_order_is_no_failure(monkeypatch, capsys):
    def ended(*_: object) -> None:
        raise RunEnded("r", "paused", "run r is paused")

    monkeypatch.setattr("esper.cli.runs.inspect.existing_log", ended)
    assert main(["runs"]) == 0
    assert capsys.readouterr().err == "esper: run r is paused\n"


def _copy(home: Path, to: Path) -> Path:
    """A home whose log holds the run ``done`` of ``home``."""
    log, copied = open_log(log_url(home)), open_log(log_url(to))
    writer = copied.open_writer("done")
    writer.append([entry.record for entry in log.read("esper.runs", key="done")])
    log.close()
    copied.close()
    return to


def _record(run_id: str, content: object, epoch: int, sequence: int):
    return run_record(run_id, content, epoch=epoch, sequence=sequence, writer="test", time=datetime.now(UTC))


def _forge(log, run_id: str, forged: str) -> None:
    """Write ``forged``: the events of ``run_id``, but for one decision with another propensity."""
    contents = [event_of(entry).content for entry in log.read("esper.runs", key=run_id)]
    place = next(i for i, content in enumerate(contents) if isinstance(content, runs.DecisionMade))
    contents[place] = dataclasses.replace(contents[place], propensity=0.123)
    writer = log.open_writer(forged)
    writer.append([_record(forged, content, writer.epoch, i) for i, content in enumerate(contents, 1)])
