"""What a boundary decides to grow: by the run's own policy, or by taking what a policy elsewhere proposed."""

from __future__ import annotations

from dataclasses import replace

from esper.events.ids import LONGEST_ISSUER, kernel_seed
from esper.events.runs import DecisionMade, DecisionRejected
from esper.events.signals import DecisionProposed
from esper.tamiyo.policy.policy import Policy
from esper.tamiyo.policy.remote import Objection, OpenDecisions, objection, proposed
from esper.tamiyo.rules.script import (
    KernelWanted,
    LeftProposal,
    NextProposal,
    Offer,
    PolicyNamed,
    Script,
    put,
)
from esper.tamiyo.run.state import RunState, settings_of

ANSWERS = 100  # proposals rejected at a boundary, at most; what is left has its turn at the next


def decide(state: RunState, asked: OpenDecisions | None) -> Script[RunState]:
    """The boundary's decision, or why there is none. ``asked`` are the boundaries whose decision is still to come, this
    one included, in a run whose policy is elsewhere."""
    state, made = yield from (_locally(state) if asked is None else _remotely(state, asked))
    if made is not None and made.action == "germinate" and made.site and made.blueprint and made.seed:
        yield KernelWanted(made.site, made.blueprint, kernel_seed(state.seed, made.seed))
    return state


def _locally(state: RunState) -> Script[tuple[RunState, DecisionMade]]:
    """The policy sees the run with all that its boundary has brought."""
    name = settings_of(state).policy.name
    policy: Policy = yield PolicyNamed(name)
    decision = replace(_decision(proposed(state, policy), state.step), policy=name, issuer=None)
    state = yield from put(decision, "the policy's decision on what it saw")
    return state, decision


def _remotely(state: RunState, asked: OpenDecisions) -> Script[tuple[RunState, DecisionMade | None]]:
    """One proposal about the boundary ``lag`` boundaries ago is taken, and each that has arrived is answered once."""
    due = asked.due()
    made: DecisionMade | None = None
    settled = False
    if due is not None:
        while not settled and (offer := (yield NextProposal(due.step))) is not None:
            refused = _refusal(offer, due, state)
            if refused is None:
                assert offer.content is not None
                made = _decision(offer.content, state.step)
                state = yield from put(made, "a proposal is taken as it was made", offer.id)
            else:
                state = yield from _reject(state, offer, *refused)
            settled = refused is None or refused.reason == "stale"  # the run has outgrown it: as it should be
        if not settled:
            detail = f"nothing usable was proposed about step {due.step} in time"
            late = DecisionRejected(decision=f"{due.step}/1", step=state.step, reason="late", detail=detail, site=None)
            state = yield from put(late, "a boundary about which nothing usable was proposed is a miss")
    state = yield from _turn_away(state, asked, due.step if due is not None else 0, settled)
    return state, made


def _turn_away(state: RunState, asked: OpenDecisions, due: int, settled: bool) -> Script[RunState]:
    """Reject what can no longer be taken, or never could; what is about a boundary to come is kept."""
    to_come = frozenset(step for step in asked.steps() if step > due)
    for _ in range(ANSWERS):
        offer: Offer | None = yield LeftProposal(to_come)
        if offer is None:
            break
        about = offer.about
        if about in to_come:
            continue
        if offer.forged is not None:
            reason, detail = "invalid", offer.forged
        elif about == due and settled:
            reason, detail = "second", f"the decision about step {about} is made"
        elif 0 < about <= due:
            reason = "late"
            detail = f"the decision about step {about} was due before step {state.step}"
        else:
            reason, detail = "invalid", f"step {about} is no boundary that the run has reached"
        state = yield from _reject(state, offer, reason, detail)
    return state


def _refusal(offer: Offer, due: RunState, now: RunState) -> Objection | None:
    if offer.forged is not None:
        return Objection("invalid", offer.forged)
    if offer.content is None or not offer.known:
        return offer.refused
    return objection(offer.content, due, now)


def _decision(content: DecisionProposed, step: int) -> DecisionMade:
    """What was proposed, as the decision that is made at ``step``."""
    return DecisionMade(
        decision=f"{content.step}/1",
        step=step,
        policy=content.policy,
        version=content.version,
        observation=content.observation,
        action=content.action,
        site=content.site,
        blueprint=content.blueprint,
        seed=content.seed,
        propensity=content.propensity,
        alternatives=content.alternatives,
        reason=content.reason,
        issuer=content.issuer,
    )


def _reject(state: RunState, offer: Offer, reason: str, detail: str) -> Script[RunState]:
    rejected = DecisionRejected(
        decision=f"{offer.about}/1",
        step=state.step,
        reason=reason,
        detail=detail,
        site=offer.site,
        issuer=offer.issuer[:LONGEST_ISSUER],
    )
    return (yield from put(rejected, "a proposal that cannot be taken is rejected", offer.id))
