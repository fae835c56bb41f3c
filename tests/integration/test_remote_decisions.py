"""Runs whose decisions come from elsewhere over the log: proposed in time, too late, wrongly, twice or not at all."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from esper.events import Event
from esper.events.encoding.codec import to_json
from esper.events.runs import BoundaryReached, DecisionMade, DecisionRejected, RunStarted, SeedTransitioned
from esper.events.signals import DecisionProposed
from esper.events.topics import PARTITIONS, RUNS, SIGNALS
from esper.log import open_log
from esper.log.ordering import in_order
from esper.log.port import Record
from esper.log.records import event_of, signal_record
from esper.tamiyo.policy.remote import signal_of
from esper.tamiyo.proof.verify import verify
from tests.support.command import runner, wait_until
from tests.support.logs.runlog import COMPARED
from tests.support.runs.deciding import Worker, as_they_are
from tests.support.runs.training import Loop, settings
from tests.support.services.workers import Worker as Process

Answer = DecisionMade | DecisionRejected


pytestmark = pytest.mark.usefixtures("one_thread")


class Stage:
    """A log, and a training on it whose decisions are remote."""

    def __init__(self, home: Path, url: str, epochs: int = 4, **decision: Any) -> None:
        self.url = url
        chosen = settings(decision={"where": "remote", "wait": 20.0, **decision})
        self.loop = Loop(home, settings=chosen, epochs=epochs, more={"log": url})

    def worker(self, tamper: Callable[..., Iterable[Record]] = as_they_are) -> Worker:
        return Worker(self.url, tamper)

    def events(self, run_id: str) -> list[Event]:
        with closing(open_log(self.url)) as log:
            return [event for _, event in in_order(log.read(RUNS, key=run_id))]

    def history(self, run_id: str) -> list[tuple[str, Any]]:
        named = [(type(each.content).__name__, {**to_json(each), "measured": None}) for each in self.events(run_id)]
        return [(name, content) for name, content in named if name in COMPARED]

    def of(self, kind: type, run_id: str) -> list[Any]:
        return [each.content for each in self.events(run_id) if isinstance(each.content, kind)]

    def answers(self, run_id: str) -> list[tuple[int, str, str]]:
        """(step, decision, what became of it)."""
        return [
            (each.step, each.decision, "made" if isinstance(each, DecisionMade) else each.reason)
            for each in self.of(DecisionMade, run_id) + self.of(DecisionRejected, run_id)
        ]

    def proposed(self, run_id: str) -> list[DecisionProposed]:
        with closing(open_log(self.url)) as log:
            found = [event_of(entry).content for entry in log.read(SIGNALS, key=run_id)]
        return [each for each in found if isinstance(each, DecisionProposed)]


@pytest.fixture
def stage(tmp_path: Path, log_url_factory: Callable[[], str]) -> Callable[..., Stage]:
    return lambda **more: Stage(tmp_path, log_url_factory(), **more)


def test_a_remote_run_is_the_same_however_often_its_trainer_is_killed(stage: Callable[..., Stage]) -> None:
    of = stage(epochs=4)
    with of.worker():
        of.loop.begin("whole")
        of.loop.go()
        of.loop.begin("torn")
        for step in (5, 18, 29):
            of.loop.go(until=step)
            of.loop.resume("torn")
        of.loop.go()
    assert of.history("torn") == of.history("whole")
    made = of.of(DecisionMade, "whole")
    assert [each.decision for each in made][:2] == ["4/1", "12/1"]
    assert {each.issuer for each in made} == {"tamiyo/heuristic/1"}
    assert all(each.measured["latency"] >= 0 for each in made)
    assert [each.to_stage for each in of.of(SeedTransitioned, "whole")][:3] == ["GERMINATED", "TRAINING", "BLENDING"]
    for run_id in ("whole", "torn"):
        report = verify(run_id, of.events(run_id))
        assert report.findings == ()
        assert report.counts["decisions"] == len(made) > 4
    assert [each[1:] for each in of.answers("whole") if each[2] != "made"] == [("8/1", "stale")]


def test_a_lag_of_two_boundaries_gives_a_worker_more_time(stage: Callable[..., Stage]) -> None:
    of = stage(epochs=3, lag=2)
    with of.worker():
        of.loop.begin("run")
        of.loop.go()
    reached = [each.step for each in of.of(BoundaryReached, "run")]
    assert sorted((step, about) for step, about, _ in of.answers("run")) == sorted(
        (step, f"{step - 8}/1") for step in reached[2:]
    )
    assert verify("run", of.events("run")).findings == ()


def test_with_no_worker_training_goes_on_and_says_so_once(
    stage: Callable[..., Stage], caplog: pytest.LogCaptureFixture
) -> None:
    of = stage(epochs=4, wait=0.1)
    of.loop.begin("run")
    with caplog.at_level(logging.WARNING, "esper"):
        of.loop.go()
    assert of.loop.run.status == "completed"
    assert of.answers("run") == [(step, f"{step - 4}/1", "late") for step in range(8, 33, 4)]
    assert len([each for each in caplog.messages if "without waiting" in each]) == 1
    assert verify("run", of.events("run")).findings == ()


def test_a_worker_that_comes_late_is_turned_away_for_the_past_and_heard_from_then_on(
    stage: Callable[..., Stage],
) -> None:
    of = stage(epochs=6, wait=0.05)
    of.loop.begin("run")
    trainer = of.loop.run._trainer
    assert trainer is not None
    workers: list[Worker] = []

    def hire(step: int, batch: Any) -> Any:
        if step == 19:
            workers.append(of.worker())
        if step > 19 and step % 4 == 0:  # each boundary reached before is proposed about now
            wait_until(lambda: len(trainer.inbox._known) == step // 4 - 1, "their arrival")
        return batch

    of.loop.go(on_batch=hire)
    workers[0].close()
    answers = of.answers("run")
    assert [each for each in answers if each[0] < 20] == [(8, "4/1", "late"), (12, "8/1", "late"), (16, "12/1", "late")]
    assert [each[2] for each in answers if each[0] == 20 and each[1] != "16/1"] == ["late"] * 3
    assert (20, "16/1", "made") in answers
    assert all(about == f"{step - 4}/1" and what in ("made", "stale") for step, about, what in answers if step > 20)
    assert verify("run", of.events("run")).findings == ()


def test_what_was_proposed_while_no_trainer_lived_counts_at_resume(stage: Callable[..., Stage]) -> None:
    of = stage(epochs=3)
    with of.worker():
        of.loop.begin("whole")
        of.loop.go()
    of.loop.begin("run")
    of.loop.go(until=7)  # boundary 4 is on the log
    with of.worker():
        wait_until(lambda: of.proposed("run"), "a proposal")
    of.loop.resume("run")
    with of.worker():
        of.loop.go()
    assert of.history("run") == of.history("whole")


def test_a_run_with_misses_is_reproduced_from_its_log(stage: Callable[..., Stage]) -> None:
    def lazy(run_id: str, event: Event, proposal: DecisionProposed) -> Iterable[Record]:
        return [] if proposal.step % 20 == 0 else as_they_are(run_id, event, proposal)

    of = stage(epochs=5, wait=2.0)
    with of.worker(lazy):
        of.loop.begin("run")
        of.loop.go(until=30)
        before = of.history("run")
        assert [each for each in of.answers("run") if each[2] == "late"] == [(24, "20/1", "late")]
        of.loop.resume("run")
        of.loop.go()
    after = of.history("run")
    assert after[: len(before)] == before
    abouts = [about for _, about, what in of.answers("run") if what != "invalid"]
    assert len(abouts) == len(set(abouts))
    assert verify("run", of.events("run")).findings == ()


@pytest.mark.slow
def test_a_worker_decides_and_when_it_is_killed_training_goes_on_until_it_is_back(
    tmp_path: Path, kafka_log_url: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    of = Stage(tmp_path, kafka_log_url(), epochs=6, wait=5.0, misses=1)
    with ExitStack() as hired:

        def hire(port: int = 0) -> Process:
            return hired.enter_context(closing(Process(of.url, tmp_path, "tamiyo", port=port))).await_ready(PARTITIONS)

        def killing(step: int, batch: Any) -> Any:
            if step == 18:
                wait_until(lambda: len(trainer.inbox._known) == 4, "the proposal about step 16")
                worker.kill()
            if step == 30:
                hire(worker.port)
                wait_until(lambda: of.proposed("run")[-1].step == 28, "a proposal about step 28")
                wait_until(lambda: len(trainer.inbox._known) == len(of.proposed("run")), "its arrival")
            return batch

        worker = hire()
        of.loop.begin("run")
        trainer = of.loop.run._trainer
        assert trainer is not None
        with caplog.at_level(logging.WARNING, "esper"):
            of.loop.go(on_batch=killing)
    answers = of.answers("run")
    assert [each for each in answers if each[0] < 32 and each[2] == "late"] == [
        (24, "20/1", "late"),
        (28, "24/1", "late"),
    ]
    decided = {step for step, about, what in answers if what != "late" and about == f"{step - 4}/1"}
    assert decided == set(range(8, 49, 4)) - {24, 28}
    assert len([each for each in caplog.messages if "without waiting" in each]) == 1
    assert verify("run", of.events("run")).findings == ()


def test_what_is_wrong_or_forged_or_sent_twice_changes_nothing(stage: Callable[..., Stage]) -> None:
    def noisy(run_id: str, event: Event, proposal: DecisionProposed) -> Iterable[Record]:
        def bad(issuer: str, **fields: Any) -> Record:
            return signal_of(run_id, event, replace(proposal, issuer=issuer, **fields))

        good = signal_of(run_id, event, proposal)
        elsewhere = signal_record("another", proposal, writer="x", time=event.envelope.time)
        return [
            bad("blind", observation="00" * 32),
            bad("lost", action="germinate", site="nowhere", blueprint="x", seed="nowhere#1"),
            bad("cheat", propensity=0.5),
            bad("prophet", step=proposal.step + 400),
            replace(elsewhere, key=run_id),
            good,
            good,
            bad("second"),
        ]

    of = stage(epochs=3)
    with of.worker():
        of.loop.begin("quiet")
        of.loop.go()
    with of.worker(noisy):
        of.loop.begin("run")
        of.loop.go()
    wrong = {"invalid", "second", "late"}
    quiet = [each for each in of.history("quiet") if each[0] != "RunStarted"]
    heard = [each for each in of.history("run") if each[0] != "RunStarted" and each[1].get("reason") not in wrong]
    assert heard == quiet
    answered = [event for event in of.events("run") if isinstance(event.content, Answer)]
    assert len({event.envelope.causes for event in answered}) == len(answered)
    rejected = of.of(DecisionRejected, "run")
    issuers = {each.issuer for each in rejected if each.reason == "invalid"}
    assert issuers >= {"blind", "lost", "cheat", "prophet", "tamiyo/heuristic/1"}
    assert verify("run", of.events("run")).findings == ()


def test_the_command_line_asks_for_remote_decisions_and_resume_takes_them_from_the_log(
    tmp_path: Path, log_url_factory: Callable[[], str], capsys: pytest.CaptureFixture[str]
) -> None:
    url = log_url_factory()
    esper = runner(tmp_path, capsys)
    quick = ("--set", "boundary.steps=10", "--set", "policy.warmup=0", "--set", "decision.wait=20")
    with Worker(url):
        done = esper(
            *("train", "--task", "digits", "--steps", 60, "--run-id", "r", "--decisions", "remote", *quick),
            *("--log", url, "--json"),
        )
    assert done.code == 0
    assert done.json["seeds"] != {}
    with closing(open_log(url)) as log:
        events = [event for _, event in in_order(log.read(RUNS, key="r"))]
    started = events[0].content
    assert isinstance(started, RunStarted)
    assert json.loads(started.settings)["decision"]["where"] == "remote"
    assert esper("verify", "r", "--log", url).code == 0
    (seed,) = [each.content.seed for each in events if getattr(each.content, "to_stage", "") == "GERMINATED"][:1]
    assert "tamiyo/heuristic/1 proposed it about step" in re.sub(r"\s+", " ", esper("why", "r", seed, "--log", url).out)
