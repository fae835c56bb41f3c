"""What the gates measured, as words and as a small drawing: the bound against the threshold that it had to pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from esper.nissa.report.gather import Rows
from esper.nissa.report.words import figure, many, signed

MEASURED = ("verdict", "audit")
"""Gates that compare a bound with a threshold; the others only pass or do not."""
SHOWN = 60


@dataclass(frozen=True, slots=True)
class Drawing:
    """Places on a line, in percent. The threshold has to be left behind to the right."""

    zero: float
    threshold: float
    bound: float
    mean: float

    @property
    def left(self) -> float:
        """Where the bar from the bound to the mean begins."""
        return min(self.bound, self.mean)

    @property
    def width(self) -> float:
        """How long the bar from the bound to the mean is."""
        return abs(self.bound - self.mean)


@dataclass(frozen=True, slots=True)
class GateEvidence:
    """One question that a seed was asked, and the answer."""

    seed: str
    site: str
    blueprint: str
    gate: str
    step: int
    passed: bool
    question: str
    answer: str
    reason: str
    drawing: Drawing | None
    numbers: tuple[tuple[str, str], ...]


def measured(rows: Rows) -> list[GateEvidence]:
    """The gates that measured something, and any other that a seed did not pass; the last ones."""
    told = [row for row in rows if row["gate"] in MEASURED or not row["passed"]]
    return [_gate(row) for row in told[-SHOWN:]]


def _gate(row: dict[str, Any]) -> GateEvidence:
    question, answer = _words(row)
    return GateEvidence(
        seed=row["seed"],
        site=row["site"],
        blueprint=row["blueprint"],
        gate=row["gate"],
        step=row["step"],
        passed=bool(row["passed"]),
        question=question,
        answer=answer,
        reason=row["reason"],
        drawing=_drawing(row),
        numbers=_numbers(row),
    )


def brief(row: dict[str, Any]) -> str:
    """The answer of a gate in a line; its own reason where it measured nothing."""
    if row["gate"] not in MEASURED or row["bound"] is None or row["mean"] is None:
        return str(row["reason"])
    changed, bound, asked = figure(abs(row["mean"])), figure(row["bound"]), figure(_threshold(row))
    if row["gate"] == "audit":
        what = f"Since blending began the loss on held-out examples {_moved(row)} by {changed}"
        return what if row["passed"] else f"{what}, surely by at least {figure(-row['bound'])}"
    if row["passed"]:
        return (
            f"It lowers the loss on held-out examples by {changed}, surely by at least {bound}; {asked} was asked for"
        )
    if row["mean"] >= 0:
        return f"That it lowers the loss on held-out examples by {changed} may be chance; {asked} was asked for"
    return f"It raises the loss on held-out examples by {changed}"


def _moved(row: dict[str, Any]) -> str:
    return "fell" if row["mean"] >= 0 else "rose"


def _words(row: dict[str, Any]) -> tuple[str, str]:
    examples = many(row["n"], "held-out example") if row["n"] else "held-out examples"
    bound, threshold = figure(row["bound"]), figure(_threshold(row))
    if row["bound"] is None or row["mean"] is None or row["gate"] not in MEASURED:
        return _QUESTIONS.get(row["gate"], "May it go on?"), row["reason"]
    if row["gate"] == "verdict":
        return _QUESTIONS["verdict"], _gain(row, examples, bound, threshold)
    told = f"Since blending began the loss {_moved(row)} by {figure(abs(row['mean']))} on {examples}"
    if not row["passed"]:
        surely = f"surely by at least {figure(-row['bound'])}: more than the {figure(-(_threshold(row) or 0.0))}"
        return _QUESTIONS["audit"], f"{told}, {surely} that is tolerated."
    tolerated = f"below {threshold}, which would be a rise beyond doubt"
    return _QUESTIONS["audit"], f"{told}. The bound of its fall, {bound}, is not {tolerated}."


def _gain(row: dict[str, Any], examples: str, bound: str, threshold: str) -> str:
    lower = "lower" if row["mean"] >= 0 else "higher"
    loss = f"With the seed the loss is {lower} by {figure(abs(row['mean']))} on {examples}"
    if row["passed"]:
        return f"{loss}, and surely lower by at least {bound}: more than the {threshold} that it has to bring."
    if row["mean"] >= 0:
        return f"{loss}, but that may be chance: the bound of its gain, {bound}, is not more than {threshold}."
    return f"{loss}. The bound of its gain is {bound}; it has to be more than {threshold}."


_QUESTIONS = {
    "birth": "Does it work at all?",
    "verdict": "Does it help?",
    "blend": "Is it fully blended in?",
    "audit": "Did blending it in do harm?",
    "finite": "Are its numbers finite?",
    "governor": "Does training stay calm?",
}


def _threshold(row: dict[str, Any]) -> float | None:
    return None if row["delta"] is None else float(row["delta"]) + float(row["rent"] or 0.0)


def _drawing(row: dict[str, Any]) -> Drawing | None:
    threshold, bound, mean = _threshold(row), row["bound"], row["mean"]
    if threshold is None or bound is None or mean is None:
        return None
    values = (0.0, threshold, float(bound), float(mean))
    low, high = min(values), max(values)
    margin = 0.12 * (high - low) or 1.0
    span = high - low + 2 * margin
    zero, at, to, middle = (round(100 * (value - low + margin) / span, 2) for value in values)
    return Drawing(zero=zero, threshold=at, bound=to, mean=middle)


def _numbers(row: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    told = [
        ("mean", _given(row["mean"])),
        ("bound", _given(row["bound"])),
        ("threshold", None if _threshold(row) is None else figure(_threshold(row))),
        ("loss without it", None if row["ablation"] is None else signed(row["ablation"])),
    ]
    return tuple((name, text) for name, text in told if text is not None)


def _given(value: float | None) -> str | None:
    return None if value is None else figure(value)
