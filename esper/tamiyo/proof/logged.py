"""Answers what the rules ask (a gain, a decision, a command) from a run's log, as a trainer answers it from the model.

An answer is in the event that it led to: a measured gain, for instance, in the evidence of the seed's transition.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from typing import Any
from uuid import UUID

from esper.events import Event, runs
from esper.kasmina.seed.stages import Stage
from esper.tamiyo.policy.observation import OBSERVATIONS
from esper.tamiyo.policy.policies import known
from esper.tamiyo.policy.policy import Decision, Policy
from esper.tamiyo.policy.remote import Objection, OpenDecisions, proposed
from esper.tamiyo.rules import script
from esper.tamiyo.rules.script import FORGED, Question

POLICYS_OWN = frozenset(("observation", "action", "site", "blueprint", "seed", "propensity", "alternatives", "reason"))
"""The fields of DecisionMade that only its policy can compute."""


class NotOnTheLog(Exception):
    """What was asked for by a rule has no answer in the events that follow."""

    def __init__(self, rule: str, what: str) -> None:
        super().__init__(what)
        self.rule, self.what = rule, what


class LoggedAnswers:
    """Answers from ``events``, what is left of a transaction; whoever carries the script out takes them away.

    ``unknown`` is set when the next decision is by a policy that this version does not have.
    """

    def __init__(
        self, events: deque[Event], arrival: runs.BoundaryReached | None = None, asked: OpenDecisions | None = None
    ) -> None:
        self._events, self._arrival, self._asked = events, arrival, asked
        self._offered: Event | None = None
        self.unknown = False

    def answer(self, question: Question) -> Any:
        """The answer; raises NotOnTheLog."""
        match question:
            case script.Trial(seed):
                return self._trial(seed)
            case script.BirthGradient(seed):
                return self._evidence(seed, "birth").gradient_norm
            case script.Verdict(seed):
                evidence = self._evidence(seed, "verdict")
                return script.Gains(evidence.mean, evidence.s)
            case script.Audit(seed):
                evidence = self._evidence(seed, "audit")
                return None if evidence.fold is None else script.Change(evidence.mean, evidence.s, evidence.ablation)
            case script.Quantile(z):
                return self._quantile(z)
            case script.Compile(seed=seed):
                return self._compiled(seed)
            case script.NextCommand():
                return self._command()
            case script.Description():
                return self._description()
            case script.PolicyNamed():
                return self._policy()
            case script.NextProposal(about):
                return self._proposal(about)
            case script.LeftProposal():
                return self._left()
        raise TypeError(f"no answer to {question}")

    @property
    def _next(self) -> Any:
        """The content of the next event; None at the transaction's end."""
        return self._events[0].content if self._events else None

    def _trial(self, seed: str) -> script.Gains:
        trials = self._arrival.trials if self._arrival is not None else ()
        found = next((each for each in trials if each.seed == seed), None)
        if found is None:
            return script.Gains(math.nan, math.nan)
        return script.Gains(found.mean, found.s, found.gradient_norm, found.loss)

    def _evidence(self, seed: str, gate: str) -> runs.Evidence:
        content = self._next
        if not isinstance(content, runs.SeedTransitioned) or (content.seed, content.gate) != (seed, gate):
            raise NotOnTheLog(f"the gate {gate}", f"{_told(content)}, where seed {seed} was due at the gate {gate}")
        if content.evidence is None:
            raise NotOnTheLog(f"the gate {gate}", f"the gate {gate} gave no evidence")
        return content.evidence

    def _quantile(self, z: float) -> float:
        # inv_cdf and log may differ in the last bit between C libraries; what follows from z is exact.
        evidence = getattr(self._next, "evidence", None)
        logged: float | None = evidence.z if evidence is not None else None
        return logged if logged is not None and math.isclose(logged, z, rel_tol=1e-9) else z

    def _compiled(self, seed: str) -> script.Compiled | script.NotCompiled:
        content = self._next
        if isinstance(content, runs.SeedTransitioned) and content.from_stage == Stage.DORMANT:
            return script.Compiled(content.kernel)
        if isinstance(content, runs.DecisionRejected) and content.reason == "kernel":
            return script.NotCompiled(content.detail)
        rule = "a germination is carried out at the boundary after its decision"
        raise NotOnTheLog(rule, f"{_told(content)}, where seed {seed} was to be born or its kernel rejected")

    def _command(self) -> script.Command | None:
        content = self._next
        if not isinstance(content, runs.CommandAccepted | runs.CommandRejected):
            return None
        self._once("a command is answered once", f"command {content.command} was answered before")
        said = content.reason if isinstance(content, runs.CommandRejected) else ""
        forged = said if said.startswith(FORGED) else None
        return script.Command(content.command, content.kind, content.seed, content.issuer, forged)

    def _description(self) -> runs.RunDescribed:
        content = self._next
        if not isinstance(content, runs.RunDescribed):
            rule = "a name, tag or note that was accepted"
            raise NotOnTheLog(rule, f"{_told(content)}, where the run's description had to come")
        return content

    def _policy(self) -> Policy:
        content = self._next
        if not isinstance(content, runs.DecisionMade):
            raise NotOnTheLog("a decision is made at every boundary", f"{_told(content)}, where a decision had to come")
        return self._policy_of(content)

    def _policy_of(self, made: runs.DecisionMade) -> Policy:
        policy = known(made.policy, made.version)
        self.unknown = policy is None
        return policy or _Unknown(made)

    def _proposal(self, about: int) -> script.Offer | None:
        content = self._next
        if isinstance(content, runs.DecisionMade) and content.issuer is not None:
            due = self._asked.due() if self._asked is not None else None
            assert due is not None
            policy = self._policy_of(content)
            made = replace(proposed(due, policy), issuer=content.issuer)
            return script.Offer(self._cause(), about, content.issuer, content.site, made, known=not self.unknown)
        if (
            isinstance(content, runs.DecisionRejected)
            and content.issuer is not None
            and _about(content) == about
            and content.reason in ("invalid", "stale")
        ):
            return self._rejected(content)
        return None

    def _left(self) -> script.Offer | None:
        content = self._next
        if not isinstance(content, runs.DecisionRejected) or content.issuer is None:
            return None
        self._once("a proposal about a boundary to come is kept", f"what was proposed about {content.decision} is kept")
        return self._rejected(content)

    def _rejected(self, content: runs.DecisionRejected) -> script.Offer:
        forged = content.detail if content.detail.startswith(FORGED) else None
        refused = Objection("stale" if content.reason == "stale" else "invalid", content.detail)
        assert content.issuer is not None
        return script.Offer(self._cause(), _about(content), content.issuer, content.site, None, forged, refused)

    def _cause(self) -> UUID:
        causes = self._events[0].envelope.causes
        return causes[0] if causes else UUID(int=0)

    def _once(self, rule: str, what: str) -> None:
        """The next event was answered with before, and the rules put nothing because of it."""
        if self._offered is self._events[0]:
            raise NotOnTheLog(rule, what)
        self._offered = self._events[0]


class _Unknown:
    """A policy that this version does not have: it decides what it decided."""

    def __init__(self, made: runs.DecisionMade) -> None:
        self.name, self.version = made.policy, made.version
        self.observation = min(OBSERVATIONS)  # which one it took is unknown too
        self._made = made

    def decide(self, observation: object) -> Decision:
        made = self._made
        return Decision(
            made.action,  # type: ignore[arg-type]
            made.site,
            made.blueprint,
            made.seed,
            0.0,
            made.propensity,
            made.alternatives,
            made.reason,
        )


def _about(content: runs.DecisionMade | runs.DecisionRejected) -> int:
    """The step of the boundary that a decision is named after; -1 if that is none."""
    try:
        return int(content.decision.partition("/")[0])
    except ValueError:
        return -1


def _told(content: object) -> str:
    return "the transaction ends" if content is None else f"it is {type(content).__name__}"
