"""The heuristic policy: grow where the gradient asks for it, cheaply, and not where it failed; else wait."""

from __future__ import annotations

import heapq
from typing import NamedTuple

from esper.events.runs import Alternative
from esper.tamiyo.policy.observation_v1 import Candidate, Observation, Option
from esper.tamiyo.policy.policy import Choice, Decision, drawn, exploration_draw, propensities

LISTED = 8  # germinations that are allowed at a boundary, besides waiting
FALLING_FAST = 0.10  # share of the loss between two halves of the trend at which waiting scores 1
LEAST_SCORE = 0.2  # waiting's own: what promises less is not worth a seed
NEED, RECORD, CHEAP, FRESH = 0.35, 0.3, 0.1, 0.25  # weights of a candidate's score, 1 in all
HEALTH_WEIGHTS = (0.5, 0.3, 0.2)  # gradient to weight, gradient norm, dormant share
UNMEASURED = 0.5


class _Scored(NamedTuple):
    choice: Choice
    candidate: Candidate
    option: Option


class Heuristic:
    """Waits while something forbids growth or the loss still falls fast; else germinates the best candidate.

    A candidate scores the site's need (its gradient-to-weight ratio and gradient norm against the largest of
    all candidates, and its dormant share), the blueprint's record in this run, its price and how fresh the
    site is, halved for every failure of that blueprint at that site.
    """

    name = "heuristic"
    version = "1"
    observation = 1

    def decide(self, observation: Observation) -> Decision:
        """The choice among waiting and the LISTED best candidates: the best, or with probability ``exploration`` any of
        them."""
        obstacle = _obstacle(observation)
        scored = [] if obstacle else _best(observation)
        wait = Choice("wait", None, None, None, _wait_score(observation))
        choices = [wait, *(s.choice for s in scored)]
        best = max(range(len(choices)), key=lambda i: (choices[i].score, -i))
        odds = propensities(len(choices), best, observation.exploration)
        chosen = drawn(odds, best, exploration_draw(observation))
        reason = obstacle or _reason(observation, scored, best, chosen, odds[chosen])
        choice = choices[chosen]
        alternatives = tuple(
            Alternative(action=c.action, site=c.site, blueprint=c.blueprint, score=c.score, propensity=p)
            for c, p in zip(choices, odds, strict=True)
        )
        return Decision(*choice, odds[chosen], alternatives, reason)


def _obstacle(seen: Observation) -> str | None:
    """Why nothing may germinate now, in words; None if something may."""
    if not seen.gate:
        return "waiting: there is no gate data to judge a seed by, so this run never grows; pass gate_data to let it"
    if seen.alarm:
        return f"waiting: alarm, {seen.alarm}"
    if seen.warmup_left:
        return f"waiting: the host warms up for {_steps(seen.warmup_left)} more (policy.warmup)"
    if seen.pending:
        return "waiting: the germination decided before has not been carried out yet"
    if seen.training >= seen.training_limit:
        return f"waiting: {seen.training} in training, and at most {seen.training_limit} may be (training.concurrent)"
    if not seen.seeds_left:
        return "waiting: the run has germinated as many seeds as it may (policy.seeds)"
    if seen.cooldown_left:
        return f"waiting: {_steps(seen.cooldown_left)} of the cooldown after the last germination are left"
    if not seen.candidates:
        resting = f"; {seen.embargoed} rest after failures" if seen.embargoed else ""
        return (
            "waiting: no free site has a blueprint that fits it and the "
            f"{seen.parameters_left:,} parameters left (policy.budget){resting}"
        )
    return None


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"


def _wait_score(seen: Observation) -> float:
    falling = 0.0 if seen.trend is None else seen.trend / FALLING_FAST
    return round(min(max(falling, LEAST_SCORE), 1.0), 6)


def _best(seen: Observation) -> list[_Scored]:
    """The candidates with the highest scores; of equal ones the first in the order of sites and blueprints."""
    needs = _needs(seen.candidates)
    record = {r.blueprint: (r.kept + 1) / (r.kept + r.failed + 2) for r in seen.records}
    dearest = max(option.parameters for candidate in seen.candidates for option in candidate.options)
    scored = []
    for candidate, need in zip(seen.candidates, needs, strict=True):
        site = NEED * need + FRESH / (1 + candidate.seeds + candidate.failures)
        for option in candidate.options:
            price = CHEAP * (1 - option.parameters / (dearest + 1))
            score = site + price + RECORD * record.get(option.blueprint, 0.5)
            scored.append((round(score / 2**option.failures, 6), candidate, option))
    best = heapq.nlargest(LISTED, scored, key=lambda item: item[0])
    return [_Scored(Choice("germinate", c.site, o.blueprint, c.seed, score), c, o) for score, c, o in best]


def _needs(candidates: tuple[Candidate, ...]) -> list[float]:
    """How much each site asks to grow, in [0, 1]; 0.5 for one that was not measured."""
    ratio = max((c.gradient_to_weight or 0.0 for c in candidates), default=0.0)
    norm = max((c.gradient_norm or 0.0 for c in candidates), default=0.0)
    needs = []
    for c in candidates:
        parts = (_share(c.gradient_to_weight, ratio), _share(c.gradient_norm, norm), c.dormant_share)
        known = [(w, part) for w, part in zip(HEALTH_WEIGHTS, parts, strict=True) if part is not None]
        weight = sum(w for w, _ in known)
        needs.append(sum(w * part for w, part in known) / weight if known else UNMEASURED)
    return needs


def _share(value: float | None, largest: float) -> float | None:
    return None if value is None or largest <= 0 else value / largest


def _reason(seen: Observation, scored: list[_Scored], best: int, chosen: int, propensity: float) -> str:
    if chosen == 0:
        words = f"waiting: {_falling(seen)}" if best == 0 else "waiting instead of the best germination"
    else:
        words = _germination(scored[chosen - 1])
    return words if chosen == best else f"{words}; explored, with probability {propensity:.2g}"


def _falling(seen: Observation) -> str:
    if seen.trend is not None and seen.trend / FALLING_FAST > LEAST_SCORE:
        return f"the loss fell by {seen.trend:.1%} over the last boundaries, so let the host learn"
    return "no candidate promises enough"


def _germination(scored: _Scored) -> str:
    site, option = scored.candidate, scored.option
    name = option.blueprint.partition("@")[0]
    return f"{name} ({option.parameters:,} parameters) at {site.site}: {_need(site)}; {_past(site, option)}"


def _need(site: Candidate) -> str:
    measured = {
        "gradient to weight": site.gradient_to_weight,
        "gradient norm": site.gradient_norm,
        "dormant share": site.dormant_share,
    }
    known = [f"{name} {value:.2g}" for name, value in measured.items() if value is not None]
    return ", ".join(known) if known else "not measured yet"


def _past(site: Candidate, option: Option) -> str:
    if not site.seeds and not site.failures:
        return "nothing was tried there yet"
    words = f"{site.seeds} tried there, {site.failures} failed"
    return f"{words}, this blueprint {option.failures} of them" if option.failures else words


POLICY = Heuristic()
