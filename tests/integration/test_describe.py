"""A run's name, tags, notes and hyper-parameters: given at its start, changed while it trains and when it is over."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from esper.errors import UsageError
from esper.events.runs import CommandAccepted, RunDescribed, RunStarted
from esper.tamiyo.proof.verify import verify
from esper.tamiyo.run.fold import fold
from esper.tamiyo.run.state import RunState
from tests.support.command import Esper, runner
from tests.support.logs.runlog import events, history
from tests.support.runs.training import Loop, contents

pytestmark = pytest.mark.usefixtures("one_thread")


class Colour(enum.Enum):
    RED = 1


@pytest.fixture
def esper(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Esper:
    return runner(tmp_path, capsys)


def state(home: Path, run_id: str = "run") -> RunState:
    return fold(RunState(run_id), events(home, run_id))


def test_what_is_said_at_the_start_is_in_the_first_event_and_shown(tmp_path: Path, esper: Esper) -> None:
    (tmp_path / "train.bin").write_bytes(b"data")
    params = {
        "width": np.int64(64),
        "lr": 1e-3,
        "layers": (1, 2),
        "nested": {"b": True, "a": None},
        "path": Path("x/y"),
    }
    loop = Loop(tmp_path, epochs=1)
    given = {"params": params, "name": "a <b>try</b>", "tags": ["wide", "first"], "notes": "a\nnote"}
    loop.begin(**given, data={"train": tmp_path / "train.bin"})
    loop.go()
    started = contents(tmp_path, RunStarted)[0]
    assert started.params == '{"layers":[1,2],"lr":0.001,"nested":{"a":null,"b":true},"path":"x/y","width":64}'
    assert (started.name, started.tags, started.notes) == ("a <b>try</b>", ("first", "wide"), "a\nnote")
    assert [(each.name, each.sha256[:8]) for each in started.data] == [("train", "3a6eb079")]
    shown = esper("show", "run").out
    assert "name        a <b>try</b>" in shown
    assert "tags        first, wide" in shown
    assert 'params      layers=[1, 2], lr=0.001, nested={"a": null, "b": true}, path="x/y", width=64' in shown
    assert esper("show", "run", "--json").json["params"]["width"] == 64
    assert "a <b>try</b>" in esper("runs").out


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"params": {"a": Colour.RED, "b": object()}}, "params= cannot be kept as JSON .object is none of these"),
        ({"params": {"a": "x" * 70_000}}, "64,000 bytes are allowed"),
        ({"params": [1]}, "params= takes values by name"),
        ({"name": "two\nlines"}, "no name or tag"),
        ({"name": ""}, "no name or tag"),
        ({"tags": "wide"}, r"tags='wide' is one text; give a list"),
        ({"tags": ["x" * 201]}, "no name or tag"),
        ({"notes": "x" * 10_001}, "notes are up to 10,000"),
        ({"data": {"train": "nowhere.bin"}}, "data= names nowhere.bin, which cannot be read: No such file"),
    ],
)
def test_what_cannot_be_kept_is_one_line_and_no_run_begins(tmp_path: Path, given: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        Loop(tmp_path).begin(**given)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "log.db").exists()


def test_a_run_that_is_over_takes_names_tags_and_notes(tmp_path: Path, esper: Esper) -> None:
    loop = Loop(tmp_path, epochs=1)
    loop.begin(tags=["first"])
    loop.go()
    before = history(tmp_path, "run")
    assert esper("rename", "run", "the first").code == 0
    assert esper("tag", "run", "b", "a").code == 0
    assert esper("tag", "run", "--remove", "first").code == 0
    told = esper("note", "run", "kept for later")
    assert told.out == "run run: name the first, tags a, b\n"
    now = state(tmp_path)
    assert (now.status, now.name, now.tags, now.notes) == ("completed", "the first", ("a", "b"), "kept for later")
    assert history(tmp_path, "run") == before
    assert len(contents(tmp_path, CommandAccepted)) == 5
    assert verify("run", events(tmp_path)).findings == ()
    assert esper("note", "run", "").code == 0
    assert state(tmp_path).notes is None
    loop.resume()  # of a run that is over: its model has its weights
    assert list(loop.run.epochs(1)) == []


def test_the_trainer_answers_at_its_next_boundary(tmp_path: Path, esper: Esper) -> None:
    loop = Loop(tmp_path, epochs=3)
    whole = loop.whole()
    loop.begin()

    def on_batch(step: int, batch: Any) -> Any:
        if step == 10:
            assert "its trainer answers at its next boundary" in esper("tag", "run", "seen", "twice").out
            assert esper("rename", "run", "named in training").code == 0
            trainer = loop.run._trainer
            while trainer is not None and trainer.inbox._arrived.qsize() < 3:
                pass
        return batch

    loop.go(on_batch=on_batch)
    assert (state(tmp_path).name, state(tmp_path).tags) == ("named in training", ("seen", "twice"))
    assert len(contents(tmp_path, RunDescribed)) == 3
    assert history(tmp_path, "run") == whole
    assert verify("run", events(tmp_path)).findings == ()


def test_a_tag_that_came_while_no_trainer_lived_counts_at_the_resume(tmp_path: Path, esper: Esper) -> None:
    loop = Loop(tmp_path, epochs=2)
    loop.begin()
    loop.go(until=9)
    assert "when it is resumed" in esper("tag", "run", "waiting").out
    assert state(tmp_path).tags == ()
    loop.resume()
    loop.go()
    assert state(tmp_path).tags == ("waiting",)
    assert verify("run", events(tmp_path)).findings == ()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("tag", "nothing", "x"), "there is no run 'nothing'"),
        (("rename", "run", "two\nlines"), "no name or tag"),
        (("tag", "run"), "Missing argument"),
        (("note", "run", "x" * 10_001), "notes are up to 10,000"),
    ],
)
def test_what_cannot_be_said_is_one_line(tmp_path: Path, esper: Esper, words: tuple[str, ...], said: str) -> None:
    loop = Loop(tmp_path, epochs=1)
    loop.begin()
    loop.go()
    result = esper(*words)
    assert result.code != 0
    assert said in result.err
    assert result.err.count("\n") == 1
    assert contents(tmp_path, RunDescribed) == []
