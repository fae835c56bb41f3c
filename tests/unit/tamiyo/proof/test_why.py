"""A seed's chain of causes in words."""

from __future__ import annotations

import random
from uuid import UUID

import pytest

from esper.errors import UsageError
from esper.events import Envelope, Event, assets, runs
from esper.tamiyo.proof.why import Step, explain, render
from tests.support.runs.histories import TIME, History, health, simulate


def kinds(chain: list[Step]) -> list[str]:
    return [link.kind for link in chain]


def a_kept_seed() -> History:
    """A seed that passes every gate, with the numbers that the tests look for."""
    history = History("policy.exploration=0")
    history.boundary(10, loss=1.5, health=health((1,), (0.25,)))
    history.decide()
    history.boundary(20)
    name = history.born(20)
    history.boundary(30)
    evidence = runs.Evidence(passed=True, reason="the kernel loads", gradient_norm=0.7)
    history.move(name, "TRAINING", 30, gate="birth", evidence=evidence)
    trial = runs.Trial(seed=name, fold=2, n=50, mean=0.03, s=0.2, gradient_norm=1.0)
    history.boundary(40, trials=(trial,))
    verdict = runs.Evidence(
        passed=True,
        reason="lower bound 0.021 of the gain exceeds 0.00201",
        fold=0,
        n=60,
        mean=0.04,
        s=0.3,
        sigma=0.005,
        z=1.88,
        delta=0.002,
        rent=1e-5,
        bound=0.0211,
        audit_fold=1,
    )
    history.move(name, "BLENDING", 40, gate="verdict", evidence=verdict)
    history.boundary(50)
    history.move(name, "HOLDING", 50, gate="blend", evidence=runs.Evidence(passed=True, reason="alpha is 1"))
    audit = runs.Evidence(
        passed=True, reason="no worse", fold=1, n=61, mean=-0.01, s=0.3, sigma=0.0, z=-1.6, delta=-0.002, bound=0.05
    )
    history.boundary(60)
    history.move(name, "FOSSILISED", 60, gate="audit", evidence=audit)
    return history


def test_the_chain_goes_from_measurements_to_outcome() -> None:
    chain = explain(a_kept_seed().events, "b#1")
    assert kinds(chain) == [
        "measurements",
        "decision",
        "kernel",
        "germination",
        "birth",
        "trial",
        "verdict",
        "blend",
        "audit",
        "outcome",
    ]
    assert [link.step for link in chain] == [10, 10, 20, 20, 30, 40, 40, 50, 60, 60]
    assert [link.sequence for link in chain] == sorted(link.sequence for link in chain)


def test_the_decision_names_its_reason_its_probability_and_what_else_was_possible() -> None:
    measurements, decision = explain(a_kept_seed().events, "b#1")[:2]
    assert measurements.text == "training loss 1.5; b: gradient to weight 0.25"
    assert measurements.numbers == {"loss": 1.5, "gradient_to_weight": 0.25}
    assert "with probability 1: low_rank (100 parameters) at b: gradient to weight 0.25" in decision.text
    assert "instead of wait (score 0.2" in decision.text
    assert "mlp at b (score" in decision.text
    assert decision.numbers["propensity"] == 1
    assert decision.numbers["scores"]["wait"] == 0.2


def test_gates_tell_their_evidence_in_words_and_numbers() -> None:
    chain = {link.kind: link for link in explain(a_kept_seed().events, "b#1")}
    assert "it passed the verdict: lower bound 0.021" in chain["verdict"].text
    assert "on 60 examples of gate fold 0, in isolation, it lowers the loss by 0.04" in chain["verdict"].text
    assert "training noise 0.005, z 1.88, bound 0.0211, asked 0.002 and a rent of 1e-05" in chain["verdict"].text
    assert chain["verdict"].numbers["bound"] == 0.0211
    assert "against the host as it was before, it raises the loss by 0.01" in chain["audit"].text
    assert chain["outcome"].text == "FOSSILISED since step 60: it earned its place: its parameters belong to the host"


def test_the_kernel_is_told_with_its_size_when_it_is_known() -> None:
    compiled = assets.KernelCompiled(
        blueprint="low_rank@000000000000",
        kernel="kernel of b#1",
        kind="Linear",
        dims=(8, 8),
        seed=1,
        parameters=1234,
        size=5678,
    )
    kernel = Event(Envelope(id=UUID(int=1), time=TIME, writer="w"), compiled)
    events = a_kept_seed().events
    assert "1,234 parameters, 5,678 bytes" in explain(events, "b#1", [kernel])[2].text
    assert "parameters" not in explain(events, "b#1")[2].text


def test_a_command_and_a_rollback_are_causes() -> None:
    history = History()
    name = history.grown("a", 10, "TRAINING")
    history.boundary(20)
    history.move(name, "BLENDING", 20)
    history.roll_back(25, 15)
    history.add(runs.CommandAccepted(step=30, command=UUID(int=1), kind="cull", seed=name, issuer="ann"))
    history.move(name, "CULLED", 30, cause="command")
    chain = explain(history.events, name)
    assert kinds(chain)[-4:] == ["rollback", "command", "command", "outcome"]
    assert "back to its state at step 15 (the loss is nan), where the seed was in TRAINING" in chain[-4].text
    assert chain[-3].text == "ann asked to cull it"
    assert "TRAINING → CULLED, by command" in chain[-2].text


def test_a_seed_that_a_rollback_removed_is_still_explained() -> None:
    history = History()
    name = history.grown("a", 10)
    history.roll_back(25, 5)
    assert [link.text for link in explain(history.events, name)][-2:] == [
        "the run went back to its state at step 5 (the loss is nan), before the seed was born",
        "it does not exist",
    ]


def test_a_rollback_that_undoes_a_decision_is_told() -> None:
    history = History()
    history.boundary(10)
    name = history.germinate("a")
    history.roll_back(15, 0)
    assert kinds(explain(history.events, name)) == ["measurements", "decision", "rollback", "outcome"]


def test_a_kernel_that_failed_is_told_with_its_reason() -> None:
    history = History()
    name = history.germinate("a")
    assert explain(history.events, name)[-1].text == "it was decided and waits for its kernel"
    history.reject(10)
    assert "could not be carried out (kernel): too large" in explain(history.events, name)[-2].text


def test_an_unknown_seed_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"no seed 'x#1'; it has b#1$"):
        explain(a_kept_seed().events, "x#1")
    with pytest.raises(UsageError, match="no seed has germinated"):
        explain(History().events, "x#1")


def test_every_seed_of_a_run_can_be_explained_line_by_line() -> None:
    history = simulate(random.Random(3), 40)
    assert history.state.born
    for site, count in history.state.born.items():
        for number in range(1, count + 1):
            chain = explain(history.events, f"{site}#{number}")
            assert len(render(chain).splitlines()) == len(chain)
            assert chain[-1].kind == "outcome"
