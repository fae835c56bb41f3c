"""What a run does between its steps: boundaries, checkpoints, interrupts, and what it writes when."""

from __future__ import annotations

import logging
import os
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from esper.errors import RunEnded
from esper.events.assets import BlueprintRegistered, KernelCompiled, KernelEvaluated, KernelRequested
from esper.events.runs import (
    BoundaryReached,
    CheckpointCommitted,
    DecisionMade,
    RunCompleted,
    RunPaused,
    RunStarted,
    SeedTransitioned,
)
from esper.events.topics import ASSETS
from esper.log import open_log
from esper.log.ordering import once
from esper.tamiyo.proof.verify import verify
from esper.tamiyo.run.fold import fold
from esper.tamiyo.run.state import RunState
from esper.tolaria.model.digest import digest_tree
from tests.support.runs.training import SETTINGS, Loop, contents, events, history, settings, stages

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a run in which a seed was kept."""
    home = tmp_path_factory.mktemp("finished")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    loop = Loop(home, epochs=6)
    loop.begin()
    loop.go()
    torch.set_num_threads(threads)
    return home


def test_a_run_begins_with_its_start_and_first_checkpoint_and_ends_with_its_completion(finished: Path) -> None:
    kinds = [type(event.content) for event in events(finished)]
    assert kinds[:2] == [RunStarted, CheckpointCommitted]
    assert kinds[-1] is RunCompleted
    assert kinds.count(RunStarted) == kinds.count(RunCompleted) == 1


def test_there_is_a_boundary_every_n_steps_and_a_decision_at_each(finished: Path) -> None:
    steps = list(range(4, 49, 4))
    assert [each.step for each in contents(finished, BoundaryReached)] == steps
    assert [each.step for each in contents(finished, DecisionMade)] == steps
    assert [each.decision for each in contents(finished, DecisionMade)] == [f"{step}/1" for step in steps]


def test_a_seed_is_born_a_boundary_after_the_decision_and_lives_as_long_as_the_settings_say(finished: Path) -> None:
    germinations = [each.step for each in contents(finished, DecisionMade) if each.action == "germinate"]
    assert germinations[0] == 4
    lives = [(step, stage) for step, seed, stage in stages(finished) if seed == "3#1"]
    assert lives == [(8, "GERMINATED"), (12, "TRAINING"), (28, "BLENDING"), (36, "HOLDING"), (44, "FOSSILISED")]


def test_checkpoints_are_due_at_epochs_when_blending_begins_at_fossilisation_and_after_some_steps(
    finished: Path,
) -> None:
    due = {(each.step, reason) for each in contents(finished, CheckpointCommitted) for reason in each.reason.split(",")}
    assert {(0, "start"), (8, "epoch"), (16, "epoch"), (28, "blending"), (44, "fossilised")} <= due
    steps = sorted({step for step, _ in due})
    assert max(b - a for a, b in pairwise(steps)) <= SETTINGS["checkpoint"]["steps"]


def test_verify_finds_nothing_wrong_with_a_run(finished: Path) -> None:
    report = verify("run", events(finished))
    assert report.findings == ()
    assert report.counts["verdicts"] >= 1


def test_the_assets_of_a_run_are_registered_requested_compiled_and_evaluated(finished: Path) -> None:
    log = open_log(f"sqlite:///{finished / 'log.db'}")
    kinds = [type(event.content) for _, event in once(log.read(ASSETS))]
    log.close()
    for kind in (BlueprintRegistered, KernelRequested, KernelCompiled, KernelEvaluated):
        assert kind in kinds
    kernels = {each.kernel for each in contents(finished, SeedTransitioned)}
    files = [path.read_bytes() for path in (finished / "artifacts").rglob("*") if path.is_file()]
    assert kernels
    assert all(any(kernel.encode() in data for data in files) or _stored(finished, kernel) for kernel in kernels)


def _stored(home: Path, kernel: str) -> bool:
    return any(kernel in path.name for path in (home / "artifacts").rglob("*"))


def test_a_kept_seed_is_in_the_models_state_and_changes_its_output(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=6)
    run = loop.begin()
    trainer = run._trainer
    assert trainer is not None
    model = trainer.subject.model
    loop.go()
    assert any(name.startswith("3.esper_seed_1.") for name in model.state_dict())
    assert digest_tree(dict(model.named_parameters()) | dict(model.named_buffers())).digest == (
        contents(tmp_path, RunCompleted)[0].parameters_digest
    )


def test_the_same_program_gives_the_same_history_under_another_name(tmp_path: Path, finished: Path) -> None:
    loop = Loop(tmp_path, epochs=6)
    assert loop.whole("another") == history(finished, "run")


def test_dormant_sites_change_no_bit_of_the_training(tmp_path: Path) -> None:
    loop = Loop(tmp_path, settings=settings(policy={"seeds": 0}), epochs=2)
    run = loop.begin()
    trainer = run._trainer
    assert trainer is not None
    loop.go()
    grown = digest_tree(trainer.subject.tensors()).digest
    torch.manual_seed(0)
    model = loop.model()
    optimizer = loop.optimizer(model)
    stateful, batches = loop.state(optimizer), loop.loader()
    for _ in range(2):
        for batch in batches:
            optimizer.zero_grad()
            loop.loss(model, batch).flatten(1).mean(1).mean().backward()
            optimizer.step()
            stateful["scheduler"].step()
    assert digest_tree(dict(model.named_parameters()) | dict(model.named_buffers())).digest == grown


def test_nothing_is_written_inside_a_step(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=2)
    run = loop.begin()
    trainer = run._trainer
    assert trainer is not None
    sequences: list[int] = []
    for batch in run.batches(loop.batches):
        before = trainer.journal.state.sequence
        run.step(batch)
        assert trainer.journal.state.sequence == before
        sequences.append(before)
    assert sequences[-1] > sequences[0]
    loop.crash()


def test_the_schedulers_step_belongs_to_the_step_before_the_boundary(tmp_path: Path) -> None:
    loop = Loop(tmp_path, state=lambda o: {"scheduler": torch.optim.lr_scheduler.ExponentialLR(o, 0.5)}, epochs=1)
    loop.begin()
    loop.go()
    first = contents(tmp_path, BoundaryReached)[0]
    assert first.learning_rate == pytest.approx(1e-2 * 0.5**4)


def test_the_state_of_a_run_is_the_fold_of_its_events(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=3)
    run = loop.begin()
    loop.go(until=21)
    assert run.state == fold(RunState("run"), events(tmp_path))
    run = loop.resume()
    loop.go()
    assert run.state == fold(RunState("run"), events(tmp_path))


def test_ctrl_c_pauses_after_the_step_with_a_checkpoint_and_resume_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loop = Loop(tmp_path, epochs=3)
    whole = loop.whole()
    run = loop.begin("torn")
    before = signal.getsignal(signal.SIGINT)

    def interrupt(step: int, batch: Any) -> Any:
        if step == 11:
            os.kill(os.getpid(), signal.SIGINT)
        return batch

    with caplog.at_level(logging.WARNING), pytest.raises(RunEnded, match=r"paused at step 11") as ended:
        loop.go(on_batch=interrupt)
    assert ended.value.code == 0
    assert "pauses after this step" in caplog.text
    assert signal.getsignal(signal.SIGINT) is before
    assert run.status == "paused"
    assert contents(tmp_path, RunPaused, "torn")[0].step == 11
    assert contents(tmp_path, CheckpointCommitted, "torn")[-1].step == 11
    loop.resume("torn")
    loop.go()
    assert history(tmp_path, "torn") == whole


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=3)
    loop.begin()

    def interrupt(step: int, batch: Any) -> Any:
        if step == 11:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return batch

    with pytest.raises(KeyboardInterrupt):
        loop.go(on_batch=interrupt)
    loop.crash()
    loop.resume()
    loop.go()


def test_runs_of_the_built_in_digits_grow_and_resume(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    data = load_digits()
    x, y = torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)

    def loader() -> Any:
        dataset = torch.utils.data.TensorDataset(x[:640], y[:640])
        return torch.utils.data.DataLoader(dataset, batch_size=32, shuffle=True)

    def gate() -> Any:
        return [(x[1000:1400], y[1000:1400])]

    def entropy(model: nn.Module, batch: Any) -> Any:
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    loop = Loop(
        tmp_path,
        model=lambda: nn.Sequential(nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 10)),
        loader=loader,
        gate=gate,
        loss=entropy,
        epochs=3,
    )
    assert loop.torn(25, 47) == loop.whole()
    assert stages(tmp_path, "whole")
