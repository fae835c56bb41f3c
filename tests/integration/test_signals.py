"""Commands to a run, from this and other processes: answered once, at the next boundary."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from esper.errors import RunEnded, RunUnusable, UsageError
from esper.events import Envelope
from esper.events.ids import signal_id
from esper.events.runs import CommandAccepted, CommandRejected, RunCancelled, RunPaused, SeedTransitioned
from esper.events.signals import CommandIssued
from esper.events.topics import SIGNALS
from esper.log import open_log
from esper.log.records import record_of, signal_record
from esper.tamiyo.proof.verify import verify
from tests.support.runs.training import Loop, contents, events, history
from tests.support.services.adapters import ROOT

pytestmark = pytest.mark.usefixtures("one_thread")


def send(home: Path, command: str, seed: str | None = None, nonce: str = "1", run_id: str = "run") -> None:
    log = open_log(f"sqlite:///{home / 'log.db'}")
    content = CommandIssued(command=command, seed=seed, issuer="test", nonce=nonce, reason="")
    log.signal(signal_record(run_id, content, writer="test", time=datetime(2024, 1, 1, tzinfo=UTC)))
    log.close()


def at(loop: Loop, step: int, *commands: Any) -> Any:
    """Sends ``commands`` during a step, and waits until the trainer must have them."""

    def on_batch(now: int, batch: Any) -> Any:
        if now == step:
            for command in commands:
                command()
            trainer = loop.run._trainer
            assert trainer is not None
            deadline = time.monotonic() + 10
            while trainer.inbox._arrived.empty() and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.1)
        return batch

    return on_batch


def test_a_pause_from_another_process_is_obeyed_at_the_next_boundary(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=3)
    whole = loop.whole()
    loop.begin()
    command = [sys.executable, "-m", "esper.cli.main", "pause", "run", "--home", str(tmp_path)]
    program = "import sys; from esper.cli.main import main; sys.exit(main())"

    def pause() -> None:
        subprocess.run([command[0], "-c", program, *command[3:]], cwd=ROOT, check=True, capture_output=True)

    with pytest.raises(RunEnded, match=r"paused at step 12.*esper.resume\(") as ended:
        loop.go(on_batch=at(loop, 10, pause))
    assert ended.value.code == 0
    assert loop.run.status == "paused"
    assert [each.step for each in contents(tmp_path, CommandAccepted)] == [12]
    assert [each.step for each in contents(tmp_path, RunPaused)] == [12]
    loop.resume()
    loop.go()
    assert history(tmp_path, "run") == whole
    assert len(contents(tmp_path, CommandAccepted)) == 1


def test_a_stop_is_for_good(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=3)
    loop.begin()
    with pytest.raises(RunEnded, match=r"cancelled at step 12"):
        loop.go(on_batch=at(loop, 9, lambda: send(tmp_path, "stop"), lambda: send(tmp_path, "pause", nonce="2")))
    assert loop.run.status == "cancelled"
    (cancelled,) = contents(tmp_path, RunCancelled)
    accepted = [event for event in events(tmp_path) if isinstance(event.content, CommandAccepted)]
    assert cancelled.step == 12
    assert [event.content.kind for event in accepted] == ["stop", "pause"]
    with pytest.raises(RunUnusable, match=r"cancelled"):
        loop.resume()


def test_a_stop_that_was_accepted_holds_even_if_the_trainer_dies_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("esper.tolaria.changes.Changes.apply", die)
    loop = Loop(tmp_path, epochs=3)
    loop.begin()
    with pytest.raises(KeyboardInterrupt):
        loop.go(on_batch=at(loop, 1, lambda: send(tmp_path, "stop")))
    with pytest.raises(RunUnusable, match=r"cancelled"):
        loop.resume()


def test_a_cull_is_obeyed_and_carries_the_commands_id(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=3)
    loop.begin()
    loop.go(on_batch=at(loop, 17, lambda: send(tmp_path, "cull", "3#1")))
    (accepted,) = contents(tmp_path, CommandAccepted)
    (culled,) = (
        event
        for event in events(tmp_path)
        if isinstance(event.content, SeedTransitioned) and event.content.cause == "command"
    )
    assert (culled.content.step, culled.content.seed, culled.content.to_stage) == (20, "3#1", "CULLED")
    assert culled.envelope.causes == (accepted.command,)


@pytest.mark.parametrize(
    ("command", "seed", "reason"),
    [
        ("cull", "9#1", "there is no seed 9#1"),
        ("cull", None, "there is no seed"),
        ("cull", "3#1", "seed 3#1 is CULLED already"),
        ("dance", None, "no such command: dance"),
    ],
)
def test_what_cannot_be_obeyed_is_rejected_with_the_reason(
    tmp_path: Path, command: str, seed: str | None, reason: str
) -> None:
    loop = Loop(tmp_path, epochs=2)
    loop.begin()
    commands = [lambda: send(tmp_path, "cull", "3#1", "first")] if "CULLED" in reason else []
    loop.go(on_batch=at(loop, 13, *commands, lambda: send(tmp_path, command, seed)))
    (rejected,) = contents(tmp_path, CommandRejected)
    assert (rejected.step, rejected.kind, rejected.seed, rejected.issuer) == (16, command, seed, "test")
    assert reason in rejected.reason


def test_what_was_sent_while_no_trainer_lived_counts_at_resume(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=3)
    loop.begin()
    loop.go(until=18)
    send(tmp_path, "cull", "3#1")
    send(tmp_path, "cull", "3#1")
    loop.resume()
    loop.go()
    (accepted,) = contents(tmp_path, CommandAccepted)
    assert accepted.step == 20
    assert contents(tmp_path, CommandRejected) == []


def test_a_command_already_answered_is_not_answered_again_after_a_crash(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=3)
    loop.begin()
    loop.go(until=19, on_batch=at(loop, 14, lambda: send(tmp_path, "cull", "3#1")))
    loop.resume()
    loop.go()
    assert [each.step for each in contents(tmp_path, CommandAccepted)] == [16]
    assert contents(tmp_path, CommandRejected) == []


def test_one_nonce_of_one_issuer_is_one_command_even_on_a_log_that_repeats_it(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=2)
    loop.begin()
    trainer = loop.run._trainer
    assert trainer is not None

    def twice() -> None:
        send(tmp_path, "cull", "3#1")
        time.sleep(0.3)
        trainer.inbox._arrived.put(trainer.inbox._arrived.get())
        (command,) = (each for each in trainer.inbox.take())
        trainer.inbox._arrived.put(command)
        trainer.inbox._arrived.put(command)

    loop.go(on_batch=at(loop, 13, twice))
    assert len(contents(tmp_path, CommandAccepted)) == 1
    assert contents(tmp_path, CommandRejected) == []


def test_commands_to_another_run_are_not_ours(tmp_path: Path) -> None:
    loop = Loop(tmp_path, epochs=1)
    loop.begin()
    send(tmp_path, "stop", run_id="another")
    loop.go()
    assert loop.run.status == "completed"


def test_a_command_whose_issuer_or_nonce_is_longer_than_a_run_takes_is_rejected(tmp_path: Path) -> None:
    asked = CommandIssued(command="stop", seed=None, issuer="x" * 5000, nonce="1", reason="")
    time_ = datetime(2024, 1, 1, tzinfo=UTC)
    with pytest.raises(UsageError, match="200 characters at most"):
        signal_record("run", asked, writer="test", time=time_)
    loop = Loop(tmp_path, epochs=3)
    whole = loop.whole()

    def send_all_the_same() -> None:
        log = open_log(f"sqlite:///{tmp_path / 'log.db'}")
        envelope = Envelope(id=signal_id("run", asked.issuer, asked.nonce), time=time_, writer="test")
        log.signal(record_of(SIGNALS, "run", envelope, asked))
        log.close()

    loop.begin()
    loop.go(on_batch=at(loop, 10, send_all_the_same))
    [rejected] = contents(tmp_path, CommandRejected)
    assert "200 characters at most" in rejected.reason
    assert len(rejected.issuer) == 200
    assert history(tmp_path, "run") == whole
    assert verify("run", events(tmp_path)).findings == ()
