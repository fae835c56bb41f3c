"""What bad input gets: one line that names the thing and the remedy, and nothing lost."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from esper.errors import (
    DataMismatch,
    EnvironmentMismatch,
    EsperError,
    Fenced,
    LogError,
    ModelMismatch,
    Quarantined,
    RunUnusable,
    Unsupported,
    UsageError,
)
from esper.events.encoding.schemas import schema_from_json
from esper.events.runs import AlertRaised, DecisionMade, RunResumed, RunStarted
from esper.log import open_log
from esper.log.records import run_record
from esper.log.sqlite.database import VERSION
from esper.tamiyo.policy.policies import registered
from esper.tamiyo.policy.policies.heuristic import Heuristic
from esper.tolaria.model.environment import environment
from tests.support.runs.training import Loop, contents, events, examples, history, host, settings

START = sys.modules["esper.tolaria.start"]  # esper.tolaria.start is the function


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def crashed(tmp_path: Path) -> Loop:
    """A run of two epochs that crashed in the second."""
    loop = Loop(tmp_path, epochs=2)
    loop.begin()
    loop.go(until=11)
    return loop


class Oracle(Heuristic):
    name = "oracle"


def wider() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.1), nn.Linear(5, 1))


REFUSED: dict[str, tuple[dict[str, Any], type[EsperError], str]] = {
    "another shape": ({"model": wider}, ModelMismatch, r"0\.weight is \[5, 4\] float32, in the run \[4, 4\]"),
    "another dtype": ({"model": lambda: host().double()}, ModelMismatch, r"0\.weight is .*float64"),
    "another layer": (
        {"model": lambda: nn.Sequential(*host(), nn.Linear(1, 1))},
        ModelMismatch,
        r"4\.weight: the model has it, the run does not",
    ),
    "another optimiser": (
        {"optimizer": lambda model: torch.optim.AdamW(model.parameters())},
        ModelMismatch,
        "optimiser is AdamW, the run's is Adam",
    ),
    "other groups": (
        {"optimizer": lambda model: torch.optim.Adam([{"params": [each]} for each in model.parameters()])},
        ModelMismatch,
        "parameter groups of .* build the same",
    ),
    "other names in state": (
        {"state": lambda optimizer: {"schedule": torch.optim.lr_scheduler.StepLR(optimizer, 1)}},
        ModelMismatch,
        r"\['schedule'\], the run's are \['scheduler'\]",
    ),
    "other gate data": (
        {"gate": lambda: DataLoader(examples(400, seed=3), batch_size=100)},
        DataMismatch,
        "gate_data is not what run run began with",
    ),
    "no gate data": ({"gate": lambda: None}, DataMismatch, "gate_data is not what run run began with"),
    "LBFGS": ({"optimizer": lambda model: torch.optim.LBFGS(model.parameters())}, Unsupported, "needs a closure"),
    "a GradScaler": (
        {"state": lambda optimizer: {"scaler": torch.amp.GradScaler("cpu", enabled=False)}},
        Unsupported,
        "GradScaler.*bfloat16",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_the_runs_is_refused_and_the_run_can_still_be_resumed(
    tmp_path: Path, crashed: Loop, case: str
) -> None:
    changes, error, words = REFUSED[case]
    with pytest.raises(error, match=words) as caught:
        replace(crashed, **changes).resume()
    assert "\n" not in str(caught.value)
    assert contents(tmp_path, RunResumed) == []
    crashed.resume()
    assert crashed.go()["status"] == "completed"


def test_a_parameter_replaced_during_the_run_is_noticed_at_the_next_boundary(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=2)
    loop.begin()
    trainer = loop.run._trainer
    assert trainer is not None

    def replaced(step: int, batch: Any) -> Any:
        if step == 6:
            trainer.subject.model[0].bias = nn.Parameter(torch.zeros(4))  # type: ignore[index]
        return batch

    with pytest.raises(ModelMismatch, match=r"0\.bias was replaced.*change it in place"):
        loop.go(on_batch=replaced)
    loop.resume()
    loop.go()


def test_gate_data_larger_than_the_limit_is_refused(tmp_path: Path) -> None:
    large = TensorDataset(torch.zeros(60_000, 4), torch.zeros(60_000, 1))
    loop = Loop(tmp_path, gate=lambda: DataLoader(large, batch_size=20_000), settings=settings(gate={"limit_mb": 1}))
    with pytest.raises(UsageError, match=r"larger than 1 MB.*gate\.limit_mb"):
        loop.begin()
    assert events(tmp_path) == []


def test_gate_data_too_small_for_the_folds_is_refused(tmp_path: Path) -> None:
    loop = Loop(tmp_path, gate=lambda: DataLoader(examples(7), batch_size=7))
    with pytest.raises(UsageError, match=r"7 examples.*gate\.folds"):
        loop.begin()


# Another machine


def elsewhere(**changes: Any) -> Callable[[nn.Module], Any]:
    return lambda model: replace(environment(model), **changes)


def test_the_thread_count_of_the_run_is_set_on_resume(tmp_path: Path, crashed: Loop) -> None:
    torch.set_num_threads(2)
    crashed.resume()
    assert torch.get_num_threads() == 1
    crashed.go()
    assert contents(tmp_path, RunResumed)[0].notes == ()


@pytest.mark.parametrize(
    "changes", [{"torch": "1.0"}, {"capability": "Z80"}, {"device": "cuda/H100"}, {"deterministic": True}]
)
def test_another_machine_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    loop = Loop(tmp_path, epochs=2)
    with monkeypatch.context() as patch:
        patch.setattr(START, "environment", elsewhere(**changes))
        loop.begin()
    loop.go(until=11)
    ((name, value),) = changes.items()
    with pytest.raises(EnvironmentMismatch, match=rf"{name} is .*, was {value}; .*inexact=True"):
        loop.resume()
    loop.resume(inexact=True)
    (resumed,) = contents(tmp_path, RunResumed)
    assert resumed.inexact
    assert [note.split()[0] for note in resumed.notes] == [name]
    loop.go()


def test_another_python_is_no_reason_to_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(tmp_path, epochs=2)
    with monkeypatch.context() as patch:
        patch.setattr(START, "environment", elsewhere(python="3.99"))
        loop.begin()
    loop.go(until=11)
    loop.resume()
    loop.go()


def test_an_inexact_run_is_resumed_again_though_its_bits_are_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second machine's weights differ in steps that the first one logged after the last checkpoint."""
    loop = Loop(tmp_path, settings=settings(checkpoint={"steps": 100}), epochs=2)
    with monkeypatch.context() as patch:
        patch.setattr(START, "environment", elsewhere(torch="1.0"))
        loop.begin()
    loop.go(until=6)

    def other_bits(step: int, batch: Any) -> Any:
        trainer = loop.run._trainer
        assert trainer is not None
        with torch.no_grad():
            trainer.subject.model.get_parameter("0.bias").add_(1e-6)
        return batch

    loop.resume(inexact=True)
    loop.go(until=7, on_batch=other_bits)
    loop.resume()
    loop.go(on_batch=other_bits)
    assert [each.inexact for each in contents(tmp_path, RunResumed)] == [True, False]


# The log


def test_a_log_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path, crashed: Loop) -> None:
    with apsw.Connection(str(tmp_path / "log.db")) as connection:
        connection.pragma("user_version", VERSION + 1)
    connection.close()
    for attempt in (crashed.resume, lambda: crashed.begin("another")):
        with pytest.raises(LogError, match=r"upgrade esper-training"):
            attempt()
    with apsw.Connection(str(tmp_path / "log.db")) as connection:
        connection.pragma("user_version", VERSION)
    connection.close()
    crashed.resume()
    crashed.go()


def test_a_record_of_a_newer_version_is_an_error_and_never_skipped(tmp_path: Path, crashed: Loop) -> None:
    log = open_log(f"sqlite:///{tmp_path / 'log.db'}")
    writer = log.open_writer("run")
    alert = AlertRaised(step=11, kind="loss", detail="", value=None)
    known = run_record(
        "run", alert, epoch=writer.epoch, sequence=writer.sequence + 1, writer="newer", time=datetime.now(UTC)
    )
    newer = schema_from_json(known.schema.json.replace("AlertRaised", "SeedEntangled"))
    writer.append([replace(known, schema=newer)])
    log.close()
    with pytest.raises(Quarantined, match=r"SeedEntangled.*(update|upgrade|newer)") as caught:
        crashed.resume()
    assert "\n" not in str(caught.value)


def test_settings_of_a_newer_version_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(tmp_path, epochs=2)
    with monkeypatch.context() as patch:
        patch.setattr(START, "canonical_json", lambda _: '{"boundary":{"steps":4,"warp":9}}')
        loop.begin()
    loop.go(until=3)
    with pytest.raises(RunUnusable, match=r"not for this version of Esper.*boundary.warp"):
        loop.resume()


@pytest.mark.parametrize("where", ["local", "remote"])
def test_a_policy_that_is_not_installed_is_refused_and_fences_no_trainer_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    loop = Loop(tmp_path, settings=settings(policy={"name": "oracle"}, decision={"where": where, "wait": 0.01}))
    with pytest.raises(UsageError, match="no policy 'oracle'"):
        loop.begin()
    assert events(tmp_path) == []
    monkeypatch.setitem(registered(), ("oracle", "1"), Oracle())
    loop.begin()
    with monkeypatch.context() as elsewhere:
        elsewhere.delitem(registered(), ("oracle", "1"))
        with pytest.raises(UsageError, match="no policy 'oracle'"):
            Loop(tmp_path).resume()
    loop.go()
    assert loop.run.status == "completed"
    assert {each.policy for each in contents(tmp_path, DecisionMade)} == ({"oracle"} if where == "local" else set())


def test_a_disk_that_is_full_ends_the_training_and_nothing_is_lost(tmp_path: Path) -> None:
    loop = Loop(tmp_path, settings=settings(log={"patience": 0.5}), epochs=3)
    whole = loop.whole()

    with apsw.Connection(str(tmp_path / "log.db")) as connection:
        full = connection.pragma("page_count") + 2
    connection.close()

    def small(connection: apsw.Connection) -> None:
        connection.pragma("max_page_count", full)

    apsw.connection_hooks.append(small)
    try:
        loop.begin("torn")
        with pytest.raises(LogError, match=r"disk is full|did not answer.*space") as caught:
            loop.go()
        assert "\n" not in str(caught.value)
    finally:
        apsw.connection_hooks.remove(small)
    survived = [event.envelope.id for event in events(tmp_path, "torn")]
    assert len(survived) >= 2
    loop.resume("torn")
    loop.go()
    assert [event.envelope.id for event in events(tmp_path, "torn")][: len(survived)] == survived
    assert history(tmp_path, "torn") == whole


def test_artifacts_that_cannot_be_written_end_the_training_and_nothing_is_lost(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=3)
    whole = loop.whole()
    loop.begin("torn")
    chunks = tmp_path / "artifacts" / "runs" / "torn" / "chunks"

    def full(step: int, batch: Any) -> Any:
        if step == 10:
            chunks.rename(chunks.with_name("away"))
            chunks.write_text("")
        return batch

    with pytest.raises(EsperError, match=r"could not be written.*then resume"):
        loop.go(on_batch=full)
    chunks.unlink()
    chunks.with_name("away").rename(chunks)
    loop.resume("torn")
    loop.go()
    assert history(tmp_path, "torn") == whole


def test_a_second_trainer_takes_over_and_the_first_writes_nothing_more(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=3)
    whole = loop.whole()
    first, second = Loop(tmp_path, epochs=3), Loop(tmp_path, epochs=3)
    first.begin("torn")
    iterator = iter(first.run.batches(first.batches))
    for _ in range(3):
        first.run.step(next(iterator))
    second.resume("torn")
    with pytest.raises(Fenced, match=r"epoch 2"):
        list(map(first.run.step, iterator))
    torch.manual_seed(0)
    second.resume("torn")
    second.go()
    assert {event.envelope.epoch for event in events(tmp_path, "torn")} == {1, 2, 3}
    assert history(tmp_path, "torn") == whole


def test_a_start_that_failed_leaves_the_name_free(tmp_path: Path) -> None:
    (tmp_path / "artifacts").write_text("a file where the folder should be")
    loop = Loop(tmp_path, epochs=1)
    with pytest.raises(EsperError, match=r"cannot be written"):
        loop.begin()
    (tmp_path / "artifacts").unlink()
    loop.begin()
    loop.go()
    assert len(contents(tmp_path, RunStarted)) == 1


def test_a_log_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.db").write_bytes(b"no database" * 100)
    for attempt in (Loop(tmp_path).begin, Loop(tmp_path).resume):
        with pytest.raises(LogError, match=r"log\.db: damaged"):
            attempt()
