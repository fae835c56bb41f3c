"""Logs of runs that were really trained: what follows from the rules cannot be altered, and assets follow from runs."""

from __future__ import annotations

import json
import re
from collections import Counter
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from esper.cli.main import main
from esper.errors import DataUnavailable
from esper.events import Event, assets, runs
from esper.events.ids import kernel_seed
from esper.events.topics import ASSETS
from esper.log import open_log
from esper.log.ordering import once
from esper.settings import log_url
from esper.tamiyo.proof.verify import verify
from esper.tasks.fashion_mnist import folder
from tests.support.command import runner
from tests.support.logs.mutations import mutations
from tests.support.logs.records import record_of_event
from tests.support.logs.runlog import events as events_of
from tests.support.runs.deciding import Worker
from tests.support.runs.histories import changed, find

RUN = "trained"
QUICK = (
    *("boundary.steps=10", "checkpoint.steps=40", "gate.folds=4", "policy.warmup=10", "policy.embargo=20"),
    *("training.steps=40", "blending.steps=20", "blending.holding_steps=20"),
    *("verdict.measurements=2", "verdict.alpha=0.4", "verdict.delta=0", "verdict.rent=0"),
)
DIGITS = ("--task", "digits", "--seed", "1")
RUNS = {
    "digits": DIGITS,
    "digits, decided elsewhere": (*DIGITS, "--decisions", "remote", "--set", "decision.wait=20"),
    "fashion-mnist": ("--task", "fashion-mnist", "--seed", "5"),
}


@dataclass(frozen=True)
class Trained:
    home: Path
    events: list[Event]


@pytest.fixture(scope="module", params=RUNS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run in which a seed was fossilised."""
    if request.param == "fashion-mnist":
        try:
            folder()
        except DataUnavailable as error:
            pytest.skip(str(error))
    home = tmp_path_factory.mktemp("home")
    words = [word for each in QUICK for word in ("--set", each)]
    command = ["train", *RUNS[request.param], "--steps", "240", "--run-id", RUN, "--home", str(home)]
    with Worker(log_url(home)) if "elsewhere" in request.param else nullcontext():
        assert main([*command, *words]) == 0
    return Trained(home, events_of(home, RUN))


def test_a_run_that_nobody_touched_verifies(trained: Trained) -> None:
    report = verify(RUN, trained.events)
    assert report.findings == ()
    assert min(report.counts["verdicts"], report.counts["audits"]) > 0


def test_every_field_that_the_rules_decide_is_found_when_it_is_altered(trained: Trained) -> None:
    tried, missed = 0, []
    for each in mutations(trained.events):
        tried += 1
        if all(finding.sequence != each.place + 1 for finding in verify(RUN, each.events).findings):
            missed.append(str(each))
    assert missed == []
    assert tried > 300


@pytest.mark.parametrize(
    ("setting", "stage"),
    [("training.steps", "BLENDING"), ("blending.steps", "HOLDING"), ("blending.holding_steps", "FOSSILISED")],
)
def test_settings_that_ask_for_longer_stages_than_the_run_had_are_found(
    trained: Trained, setting: str, stage: str
) -> None:
    started: Any = trained.events[0].content
    settings = json.loads(started.settings)
    section, name = setting.split(".")
    settings[section][name] = 900
    report = verify(RUN, changed(trained.events, 0, settings=json.dumps(settings)))
    early = find(trained.events, runs.SeedTransitioned, to_stage=stage)
    assert any(finding.sequence <= early + 1 for finding in report.findings)


def test_what_the_library_is_told_follows_from_the_run(trained: Trained) -> None:
    with closing(open_log(log_url(trained.home))) as log:
        told = [event.content for _, event in once(log.read(ASSETS))]
    expected: Counter[Any] = Counter()
    started: Any = trained.events[0].content
    for event in trained.events:
        content = event.content
        if isinstance(content, runs.DecisionMade) and content.action == "germinate":
            expected["requested", content.blueprint, *site(started, content.site), seed(started, content.seed)] = 1
        elif isinstance(content, runs.SeedTransitioned):
            where = site(started, content.site)
            if content.from_stage == "DORMANT":
                found = "compiled", content.blueprint, *where, seed(started, content.seed), content.kernel
                expected[found] = 1
            elif content.gate in ("verdict", "audit"):
                expected["evaluated", content.blueprint, *where, content.kernel, content.gate, content.evidence] = 1
    assert {name for name, *_ in expected} == {"requested", "compiled", "evaluated"}
    assert Counter(map(said, told)) - Counter([None] * len(told)) == expected


def site(started: runs.RunStarted, name: str | None) -> tuple[str, tuple[int, ...]]:
    """The kind and the dims of a site."""
    assert name is not None
    row = started.sites.names.index(name)
    return started.sites.kinds[row], started.sites.dims[row]


def seed(started: runs.RunStarted, name: str | None) -> int:
    assert name is not None
    return kernel_seed(started.seed, name)


def said(content: Any) -> Any:
    """What an asset's event says that follows from a run; None of a blueprint."""
    match content:
        case assets.KernelRequested():
            return "requested", content.blueprint, content.kind, content.dims, content.seed
        case assets.KernelCompiled():
            return "compiled", content.blueprint, content.kind, content.dims, content.seed, content.kernel
        case assets.KernelEvaluated():
            return (
                *("evaluated", content.blueprint, content.kind, content.dims),
                *(content.kernel, content.gate, content.evidence),
            )
    return None


def test_rules_that_this_version_does_not_know_are_refused_and_the_run_is_shown(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = trained.events[: find(trained.events, runs.BoundaryReached) + 2]
    with closing(open_log(log_url(tmp_path))) as log, closing(log.open_writer(RUN)) as writer:
        writer.append([record_of_event(event, RUN) for event in changed(begun, 0, rules=2)])
    esper = runner(tmp_path, capsys)
    for command in ("verify", "resume"):
        result = esper(command, RUN)
        assert (result.code, result.out) == (1, "")
        assert result.err.count("\n") == 1
        assert "decides by rules 2, this version of Esper knows rules 1 alone; use the version that" in result.err
    shown = esper("show", RUN, "--json")
    assert shown.code == 0
    assert shown.json["status"] == "running"
    assert shown.json["sequence"] == len(begun)


def test_a_log_that_breaks_the_rules_is_told_by_event_and_rule(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = find(trained.events, runs.SeedTransitioned, to_stage="BLENDING")
    evidence = replace(trained.events[place].content.evidence, passed=False)  # type: ignore[union-attr]
    with closing(open_log(log_url(tmp_path))) as log, closing(log.open_writer(RUN)) as writer:
        writer.append([record_of_event(event, RUN) for event in changed(trained.events, place, evidence=evidence)])
    result = runner(tmp_path, capsys)("verify", RUN)
    assert result.code == 1
    said, *_ = result.out.splitlines()
    what = r"evidence\.passed is False, computed True \(rule: the gate verdict\)"
    assert re.fullmatch(rf"event {place + 1} at esper\.runs/\d+:{place}: {what}", said)


def test_what_is_found_many_times_is_said_once(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = [
        Event(each.envelope, replace(each.content, version="9"))
        if isinstance(each.content, runs.DecisionMade)
        else each
        for each in trained.events
    ]
    made = [place for place, each in enumerate(events, 1) if isinstance(each.content, runs.DecisionMade)]
    with closing(open_log(log_url(tmp_path))) as log, closing(log.open_writer(RUN)) as writer:
        writer.append([record_of_event(event, RUN) for event in events])
    result = runner(tmp_path, capsys)("verify", RUN)
    (said,) = [line for line in result.out.splitlines() if "heuristic 9 is not known here" in line]
    assert said.startswith(f"event {made[0]} at ")
    assert said.endswith(f"; so it is said of {len(made) - 1} more, the last of them event {made[-1]}")
    assert result.code == 1
