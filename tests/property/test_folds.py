"""Any legal history folds, in any pieces, to the same state."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from itertools import pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper.events import runs
from esper.events.encoding.codec import decode, encode
from esper.events.encoding.schemas import schema_of
from esper.kasmina.seed.stages import IN_THE_HOST, LIVE
from esper.settings import Settings
from esper.tamiyo.policy.observation import digest, observe
from esper.tamiyo.proof.verify import verify
from esper.tamiyo.run.fold import apply, fold
from esper.tamiyo.run.state import RunState, settings_of
from tests.support.paths import ROOT
from tests.support.runs.histories import RUN, History, simulate

some = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def histories(draw: st.DrawFn) -> History:
    rng = random.Random(draw(st.integers(0, 10_000)))
    assignments = draw(
        st.sampled_from(
            [
                (),
                ("training.concurrent=2", "policy.seeds=20"),
                ("policy.cooldown=35", "policy.exploration=0.5"),
                ("policy.budget=0.3", "policy.embargo=20", "policy.seeds=3"),
                ("policy.warmup=60", "policy.exploration=0"),
            ]
        )
    )
    return simulate(rng, draw(st.integers(1, 30)), *assignments, end=draw(st.booleans()))


@some
@given(histories(), st.data())
def test_folding_is_associative_over_batches(history: History, data: st.DataObject) -> None:
    events = history.events
    first, second = sorted(data.draw(st.tuples(*[st.integers(0, len(events))] * 2)))
    start = RunState(RUN)
    in_parts = fold(fold(fold(start, events[:first]), events[first:second]), events[second:])
    assert in_parts == fold(start, events) == history.state
    assert in_parts.digest_of_state() == history.state.digest_of_state()


@some
@given(histories())
def test_every_prefix_folds_and_can_be_observed(history: History) -> None:
    state = RunState(RUN)
    for number, event in enumerate(history.events, start=1):
        state = apply(state, event)
        assert state.sequence == number
        observe(state, 1)


@some
@given(histories(), st.data())
def test_folding_changes_neither_its_input_nor_earlier_states(history: History, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(history.events)))
    state = fold(RunState(RUN), history.events[:cut])
    before = state.digest_of_state()
    fold(state, history.events[cut:])
    assert state.digest_of_state() == before


@some
@given(histories())
def test_events_fold_alike_after_a_round_trip_through_avro(history: History) -> None:
    kinds: list[type] = [type(event.content) for event in history.events]
    read = [decode(schema_of(kind), encode(event)) for kind, event in zip(kinds, history.events, strict=True)]
    state = fold(RunState(RUN), read)
    assert state.digest_of_state() == history.state.digest_of_state()
    assert digest(observe(state, 1)) == digest(observe(history.state, 1))


@some
@given(histories())
def test_a_rollback_gives_the_seeds_of_its_checkpoint(history: History) -> None:
    state, states, at = RunState(RUN), [RunState(RUN)], {}
    for event in history.events:
        content, state = event.content, apply(state, event)
        states.append(state)
        if isinstance(content, runs.CheckpointCommitted):
            at[content.step] = states[content.sequence].seeds  # it is on the disk later than it was taken
        elif isinstance(content, runs.RolledBack):
            assert state.seeds == at[content.to_step]


@some
@given(histories())
def test_the_heuristic_never_breaks_a_rule_of_the_run(history: History) -> None:
    state, births, parameters = RunState(RUN), list[int](), 0
    for event in history.events:
        before, state = state, apply(state, event)
        content = event.content
        if isinstance(content, runs.DecisionMade) and content.action == "germinate":
            _allowed(before, content, settings_of(before))
        elif isinstance(content, runs.SeedTransitioned) and content.from_stage == "DORMANT":
            births.append(content.step)
        blending = [seed for seed in state.live_seeds() if seed.stage in IN_THE_HOST]
        assert len(blending) <= 1
        training = [seed for seed in state.live_seeds() if seed.stage not in IN_THE_HOST]
        assert len(training) <= history.settings.training.concurrent
        parameters = max(parameters, _parameters(state))
    policy = history.settings.policy
    assert len(births) <= policy.seeds
    assert parameters <= policy.budget * 1010
    assert all(b - a >= policy.cooldown for a, b in pairwise(births))


def _allowed(state: RunState, made: runs.DecisionMade, rules: Settings) -> None:
    assert state.sites is not None
    assert made.site is not None
    assert made.blueprint is not None
    assert state.step >= rules.policy.warmup
    assert made.site not in {seed.site for seed in state.live_seeds()}
    assert state.step >= _rests_until(state, made.site, rules.policy.embargo)
    row = state.sites.names.index(made.site)
    assert state.sites.reasons[row] is None
    assert state.sites.costs[row][state.sites.blueprints.index(made.blueprint)] >= 0


def _rests_until(state: RunState, site: str, embargo: int) -> int:
    """After each cull, and after each third kernel that did not load, twice as long as before."""
    culls = [seed.since for seed in state.seeds.values() if seed.site == site and seed.stage == "CULLED"]
    failed = sorted(culls + [each.step for each in state.rejections if each.site == site][2::3])
    return failed[-1] + embargo * 2 ** (len(failed) - 1) if failed else 0


def _parameters(state: RunState) -> int:
    kept = [seed for seed in state.seeds.values() if seed.stage in LIVE or seed.stage == "FOSSILISED"]
    return sum({"low": 100, "mlp": 250}[seed.blueprint[:3]] for seed in kept)


@some
@given(histories())
def test_the_propensities_of_a_decision_are_probabilities(history: History) -> None:
    for event in history.events:
        made = event.content
        if isinstance(made, runs.DecisionMade):
            assert abs(sum(a.propensity for a in made.alternatives) - 1) < 1e-12
            assert 1 <= len(made.alternatives) <= 9
            what = (made.action, made.site, made.blueprint)
            chosen = [a for a in made.alternatives if (a.action, a.site, a.blueprint) == what]
            assert [a.propensity for a in chosen] == [made.propensity]
            assert made.propensity > 0
            assert made.reason


@some
@given(histories())
def test_a_history_that_nobody_touched_verifies(history: History) -> None:
    report = verify(RUN, history.events)
    assert report.findings == ()
    assert report.counts["events"] == len(history.events)
    assert report.counts["unknown_policy"] == 0


SCRIPT = """
import random
from tests.support.runs.histories import simulate
from esper.tamiyo.policy.observation import digest, observe
for seed in range(5):
    state = simulate(random.Random(seed), 30).state
    print(state.digest_of_state(), digest(observe(state, 1)))
"""


def test_digests_are_equal_in_every_process() -> None:
    found = set()
    for salt in ("0", "1", "random"):
        environment = {**os.environ, "PYTHONHASHSEED": salt, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", SCRIPT]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
        assert len(done.stdout.split()) == 10
        found.add(done.stdout)
    assert len(found) == 1


def test_reading_a_run_imports_no_torch() -> None:
    modules = "run.fold, run.sites, policy.observation, policy.policies, proof.verify, proof.why"
    imports = "; ".join(f"import esper.tamiyo.{each}" for each in modules.split(", "))
    code = f"import sys; {imports}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
