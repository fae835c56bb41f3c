"""Several runs side by side: which did best, and what was different about them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from esper.nissa.report.gather import Gathered
from esper.nissa.report.story import Story, many_spelt
from esper.nissa.report.words import NONE, dotted, figure, listed, many, measured, sentence
from esper.tamiyo.run.about import flat

HIGHER = ("accuracy", "f1", "auc", "precision", "recall", "score", "reward")
LOWER = ("loss", "error", "perplexity", "nll", "mse", "mae", "rmse")
"""Parts of the names of what is better when it is higher, and when it is lower; of others we do not say."""
KEPT, DIFFERENCES = 6, 20
"""So many kept seeds of a run, and so many differences, are named."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that runs do not have in common; a value for each of them."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """``metric`` is what all runs were tested by, if they share one. ``best`` has the places of the best runs."""

    title: str
    summary: str
    metric: str
    tests: tuple[str, ...]
    best: Mapping[str, frozenset[int]]
    kept: tuple[str, ...]
    differences: tuple[Difference, ...]
    unnamed: int
    """Differences that are left out."""


def compare(stories: Sequence[Story], runs: Sequence[Gathered]) -> Comparison:
    """``runs`` are what ``stories`` tell of."""
    metric = next((name for name in stories[0].test if all(name in each.test for each in stories)), "")
    tests = [each.test.get(metric) for each in stories]
    best = {"test": _best(tests, _higher(metric)), "loss": _best([each.loss for each in stories], False)}
    if len({each.compared["task"] for each in stories}) > 1:
        best = dict.fromkeys(best, frozenset())
    found = _differences(runs)
    return Comparison(
        title=f"{sentence(many_spelt(len(stories), 'run'))} side by side",
        summary=_summary(stories, metric, tests, best),
        metric=f"Test {metric}" if metric else "Test",
        tests=tuple(
            each.compared["test"] if value is None else measured(metric, value)
            for each, value in zip(stories, tests, strict=True)
        ),
        best=best,
        kept=tuple(map(_kept, stories)),
        differences=tuple(found[:DIFFERENCES]),
        unnamed=max(len(found) - DIFFERENCES, 0),
    )


def _summary(
    stories: Sequence[Story], metric: str, tests: Sequence[float | None], best: Mapping[str, frozenset[int]]
) -> str:
    if best["test"]:
        return _winner(stories, f"test {metric}", tests, best["test"], _higher(metric) or False, metric)
    if best["loss"]:
        return _winner(stories, "training loss", [each.loss for each in stories], best["loss"], False, "loss")
    if len({each.compared["task"] for each in stories}) > 1:
        return "They were trained on different tasks, so what they reached cannot be compared."
    return "None of them did better than the others."


def _winner(
    stories: Sequence[Story],
    what: str,
    values: Sequence[float | None],
    places: frozenset[int],
    higher: bool,
    metric: str,
) -> str:
    """``b has the highest test accuracy, 86.28 %; next comes a with 85.97 %.``"""
    names = [stories[place].label for place in sorted(places)]
    value = measured(metric, next(value for value in (values[place] for place in places) if value is not None))
    which = "highest" if higher else "lowest"
    text = f"{listed(names)} {'has' if len(names) == 1 else 'have'} the {which} {what}, {value}"
    rest = [(value, place) for place, value in enumerate(values) if value is not None and place not in places]
    if not rest:
        return f"{text}."
    nearest, place = max(rest) if higher else min(rest)
    return f"{text}; next comes {stories[place].label} with {measured(metric, nearest)}."


def _higher(metric: str) -> bool | None:
    """Whether more of it is better; None if its name does not tell."""
    name = metric.lower()
    if any(part in name for part in LOWER):
        return False
    return True if any(part in name for part in HIGHER) else None


def _best(values: Sequence[float | None], higher: bool | None) -> frozenset[int]:
    """The places of the best values; none where all are the same, or it is not known what is better."""
    known = {place: value for place, value in enumerate(values) if value is not None}
    if higher is None or len(set(known.values())) < 2:
        return frozenset()
    best = max(known.values()) if higher else min(known.values())
    return frozenset(place for place, value in known.items() if value == best)


def _kept(story: Story) -> str:
    """``out#2 bottleneck_mlp, mix#2 bottleneck_mlp``"""
    kept = [f"{each.line.seed} {each.name}" for each in story.seeds if each.line.stage == "FOSSILISED"]
    more = [f"and {many(len(kept) - KEPT, 'more', 'more')}"] if len(kept) > KEPT else []
    return ", ".join([*kept[:KEPT], *more]) or "none"


def _differences(runs: Sequence[Gathered]) -> list[Difference]:
    given = [_given(found) for found in runs]
    names = list(dict.fromkeys(name for each in given for name in each))
    rows = [Difference(name, tuple(each.get(name, NONE) for each in given)) for name in names]
    return [row for row in rows if len(set(row.values)) > 1]


def _given(found: Gathered) -> dict[str, str]:
    """What a run was started with, by name: its program's parameters, then Esper's settings."""
    [about] = found["about"]
    params = {f"params.{name}": value for name, value in dotted(about["params"]).items()}
    return params | (_begun_with(found["run"][0]) if found["run"] else {})


def _begun_with(row: Mapping[str, Any]) -> dict[str, str]:
    plain = (("Task", "task"), ("Random seed", "seed"), ("Optimizer", "optimizer"), ("Device", "device"))
    given = {name: str(row[key]) or NONE for name, key in plain}
    given["Parameters at first"] = figure(float(row["parameters"]))
    return given | {name: str(value) for name, value in flat(row["settings"] or "{}").items()}
