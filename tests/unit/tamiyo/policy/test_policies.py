"""What every policy in the registry keeps to, how one is found, and what a second version of anything changes."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest

from esper.errors import UsageError
from esper.events import Event, runs
from esper.settings import settings_from_json
from esper.tamiyo.policy.observation import OBSERVATIONS, digest, observe
from esper.tamiyo.policy.observation_v1 import Candidate, Observation, Option, Record
from esper.tamiyo.policy.observation_v1 import observe as observe_1
from esper.tamiyo.policy.policies import known, newest, registered
from esper.tamiyo.policy.policies.heuristic import Heuristic
from esper.tamiyo.policy.policy import Decision, Policy
from esper.tamiyo.policy.remote import proposals
from esper.tamiyo.proof.verify import verify
from esper.tamiyo.run.fold import apply
from esper.tamiyo.run.state import RunState
from tests.support.paths import ROOT
from tests.support.runs.deciding import Play
from tests.support.runs.histories import BLUEPRINTS, RUN, History, changed, find, health, simulate

each_policy = pytest.mark.parametrize(
    "policy", registered().values(), ids=lambda policy: f"{policy.name}-{policy.version}"
)


def states(seed: int) -> Iterator[RunState]:
    """A run after each of its events."""
    state = RunState(RUN)
    for event in simulate(random.Random(seed), 25, "policy.exploration=0.2").events:
        state = apply(state, event)
        yield state


@each_policy
@pytest.mark.parametrize("seed", range(3))
def test_a_policy_decides_anywhere_among_what_is_allowed_with_odds_that_add_up(policy: Policy, seed: int) -> None:
    for state in states(seed):
        seen = observe(state, policy.observation)
        made = policy.decide(seen)
        allowed = {("wait", None, None): None}
        allowed |= {("germinate", each.site, o.blueprint): each.seed for each in seen.candidates for o in each.options}
        odds = {(each.action, each.site, each.blueprint): each.propensity for each in made.alternatives}
        chosen = (made.action, made.site, made.blueprint)
        assert odds.keys() <= allowed.keys()
        assert len(odds) == len(made.alternatives)
        assert all(0 <= each <= 1 for each in odds.values())
        assert sum(odds.values()) == pytest.approx(1)
        assert odds[chosen] == made.propensity > 0
        assert made.seed == allowed[chosen]
        assert made.reason


@each_policy
def test_a_policy_decides_the_same_on_the_same_observation(policy: Policy) -> None:
    def decided() -> list[tuple[str, Decision]]:
        seen = [observe(state, policy.observation) for state in states(1)]
        return [(digest(each), policy.decide(each)) for each in seen]

    assert decided() == decided()


def test_policies_import_no_torch() -> None:
    code = (
        "import sys; from esper.tamiyo.policy.policies import registered; registered(); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


OBSERVED = Observation(
    run_seed=7,
    step=120,
    loss=0.25,
    trend=-0.125,
    alarm=None,
    gate=True,
    live={"BLENDING": 1, "TRAINING": 2},
    pending=False,
    training=2,
    training_limit=3,
    seeds_left=5,
    parameters_left=4000,
    warmup_left=0,
    cooldown_left=10,
    since_birth=30,
    exploration=0.02,
    records=(Record("mlp@1", 1, 2),),
    candidates=(Candidate("a", "a#2", 0.5, None, 0.0, 1, 1, (Option("mlp@1", 300, 1), Option("low_rank@0", 100, 0))),),
    embargoed=1,
)


def test_version_1_of_an_observation_has_the_digest_that_it_always_had() -> None:
    assert digest(OBSERVED) == "3365652488686c66b1459314d541e0c86cb396ca07fe3163d8f6060f07cda191"
    assert digest(observe(grown(), 1)) == "30be3b84afd21694914cd9f782dd6d360cb380e89a2c1a524ffe10596d38eeae"


def grown() -> RunState:
    """A run with seeds kept, culled, training and rejected, made by hand so that no rule can make it another."""
    history = History("policy.exploration=0.2", "policy.seeds=9", "training.concurrent=2")
    history.boundary(10, health=health((0, 1, 2), (0.5, None, 0.25)))
    history.grown("a", 10, "TRAINING", "BLENDING", "HOLDING", "FOSSILISED")
    history.boundary(20, loss=1.5)
    history.germinate("b", BLUEPRINTS[1])
    history.boundary(30, loss=0.5)
    history.reject(30)
    history.grown("c", 30, "TRAINING", "CULLED")
    history.boundary(40, loss=0.75)
    history.grown("b", 40, "TRAINING")
    history.boundary(50)
    return history.state


@dataclass(frozen=True, slots=True)
class Wider(Observation):
    """Version 2 of an observation: one more field."""

    rejections: int


def observe_2(state: RunState) -> Wider:
    seen = observe_1(state)
    return Wider(**{each.name: getattr(seen, each.name) for each in fields(seen)}, rejections=len(state.rejections))


class Second(Heuristic):
    """Version 2 of the heuristic, which says what only version 2 of an observation has."""

    version = "2"
    observation = 2

    def decide(self, observation: Any) -> Decision:
        made = super().decide(observation)
        return replace(made, reason=f"{made.reason}, after {observation.rejections} rejections")


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> Policy:
    """A second version of the policy and of the observation are known."""
    policy = Second()
    monkeypatch.setitem(OBSERVATIONS, 2, observe_2)
    monkeypatch.setitem(registered(), ("heuristic", "2"), policy)
    return policy


@pytest.fixture
def both(second: Policy) -> list[Event]:
    """A run in which the first version decided, and after a resume the second."""
    history = History("policy.exploration=0.3")
    for step, version in ((10, "1"), (20, "1"), (30, "2"), (40, "2")):
        history.boundary(step)
        if history.state.pending is not None:
            history.reject(step)
        history.decide(known("heuristic", version))
    return history.events


def test_decisions_of_both_versions_verify_each_with_its_own(both: list[Event]) -> None:
    report = verify(RUN, both)
    assert report.findings == ()
    assert (report.counts["decisions"], report.counts["observations"], report.counts["unknown_policy"]) == (4, 4, 0)


@pytest.mark.parametrize(("version", "other"), [("1", "2"), ("2", "1")])
def test_a_decision_is_not_that_of_another_version(both: list[Event], version: str, other: str) -> None:
    report = verify(RUN, changed(both, find(both, runs.DecisionMade, version=version), version=other))
    assert [finding.what.partition(" is ")[0] for finding in report.findings] == ["observation", "reason"]


def test_the_newest_version_decides_and_an_older_proposal_is_still_taken(second: Policy) -> None:
    first = Play().reach(10)
    assert first.version == newest("heuristic").version == "2"
    for version in ("1", "2"):
        play = Play()
        play.reach(10)
        policy = known("heuristic", version)
        assert policy is not None
        seen = observe(play.state, policy.observation)
        fields = {"version": version, "observation": digest(seen), "reason": policy.decide(seen).reason}
        play.mail.put(replace(first, **fields))
        play.reach(20)
        (made,) = play.answers()
        assert isinstance(made, runs.DecisionMade)
        assert (made.version, made.observation) == (version, digest(seen))
        assert verify(RUN, play.history.events).findings == ()


def test_a_proposal_rests_on_the_observation_of_its_version(second: Policy) -> None:
    play = Play()
    proposal = play.at(10)
    play.mail.put(replace(proposal, version="1"))
    play.reach(20)
    rejected, _ = play.answers()
    assert isinstance(rejected, runs.DecisionRejected)
    assert (rejected.reason, "but boundary 10 gives" in rejected.detail) == ("invalid", True)


class Patient(Heuristic):
    name = "patient"
    version = "10"


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> Policy:
    """Another policy is known, in two versions."""
    older, policy = Patient(), Patient()
    older.version = "9"
    monkeypatch.setitem(registered(), ("patient", "10"), policy)
    monkeypatch.setitem(registered(), ("patient", "9"), older)
    return policy


def test_the_newest_version_is_the_largest_number(patient: Policy) -> None:
    assert newest("patient") is patient


def test_a_run_names_its_policy_and_an_older_one_has_the_heuristic(patient: Policy) -> None:
    history = History("policy.name=patient", "decision.where=remote")
    (proposal,) = proposals(history.state, history.boundary(10))
    assert (proposal.policy, proposal.version, proposal.issuer) == ("patient", "10", "tamiyo/patient/10")
    assert (
        settings_from_json("{}").policy.name == settings_from_json('{"policy":{"seeds":3}}').policy.name == "heuristic"
    )


def test_a_decision_by_another_policy_than_the_runs_is_found(patient: Policy) -> None:
    history = History()
    history.boundary(10)
    history.decide(patient)
    assert [each.what for each in verify(RUN, history.events).findings] == ["policy is patient, computed heuristic"]


def test_a_proposal_by_another_policy_than_the_runs_is_rejected(patient: Policy) -> None:
    play = Play()
    play.mail.put(replace(play.at(10), policy="patient", version="10"))
    play.reach(20)
    rejected, _ = play.answers()
    assert isinstance(rejected, runs.DecisionRejected)
    assert rejected.detail == "it is by policy patient, but the run's is heuristic (policy.name)"


def names() -> str:
    return ", ".join(sorted({name for name, _ in registered()}))


def test_an_unknown_policy_or_observation_is_refused_with_what_there_is() -> None:
    with pytest.raises(UsageError, match=rf"^there is no policy 'oracle' \(policy.name\); here are: {names()}; choose"):
        newest("oracle")
    assert known("oracle", "1") is None
    with pytest.raises(UsageError, match=r"^observation version 7 is not known here; known: 1; install a newer Esper$"):
        observe(History().state, 7)


Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a package with an entry point that names this policy."""

    def installed(entry: str, code: str) -> None:
        (tmp_path / "oracles.py").write_text(
            "from esper.tamiyo.policy.policies.heuristic import Heuristic\n"
            f"class Oracle(Heuristic):\n    name = 'oracle'\n{code}\n"
        )
        about = tmp_path / "oracles-1.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: oracles\nVersion: 1\n")
        (about / "entry_points.txt").write_text(f"[esper.policies]\noracle = {entry}\n")
        monkeypatch.syspath_prepend(tmp_path)
        registered.cache_clear()

    yield installed
    sys.modules.pop("oracles", None)
    registered.cache_clear()


def test_an_installed_package_brings_policies(install: Install) -> None:
    install("oracles:POLICY", "POLICY = Oracle()")
    assert newest("oracle").version == "1"
    with pytest.raises(UsageError, match=f"here are: {names()};"):
        newest("other")


@pytest.mark.parametrize(
    ("entry", "code", "said"),
    [
        ("nowhere", "", "the policy 'oracle' of an installed package cannot be loaded from nowhere: No module named"),
        ("oracles:POLICY", "POLICY = None", "oracles:POLICY is no policy but missing"),
        ("oracles:POLICY", "    name = 'heuristic'\nPOLICY = Oracle()", "there are two of the policy 'heuristic 1'"),
        (
            "oracles:POLICY",
            "    version = 'new'\nPOLICY = Oracle()",
            "policy oracle: version 'new' is no text of digits",
        ),
        (
            "oracles:POLICY",
            "    observation = 7\nPOLICY = Oracle()",
            "observation version 7 is not known here; known: 1",
        ),
    ],
)
def test_a_package_whose_policies_are_wrong_is_refused(install: Install, entry: str, code: str, said: str) -> None:
    install(entry, code)
    with pytest.raises(UsageError, match=said):
        newest("heuristic")
