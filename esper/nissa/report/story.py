"""What the report tells of one run: from rows to words, figures and places on the page. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from esper.nissa.report import evidence
from esper.nissa.report.curves import broken, curves
from esper.nissa.report.diary import DiaryEntry, diary, ended, name_of
from esper.nissa.report.evidence import GateEvidence
from esper.nissa.report.gather import Gathered
from esper.nissa.report.lifelines import Lifeline, chosen, lifelines
from esper.nissa.report.words import (
    count,
    dotted,
    duration,
    figure,
    listed,
    many,
    measured,
    moment,
    parsed,
    percent,
    sentence,
    size,
    spelt,
)
from esper.tamiyo.advice import Finding

WORTHS = 4
"""Of more kept seeds the summary does not say what each is worth."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A figure at the head of the page: what it is, the figure, and a few words below it."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class StoryPart:
    """Of a whole: ``share`` is a percent."""

    name: str
    value: str
    share: float


@dataclass(frozen=True, slots=True)
class Attempt:
    """A stretch of steps without an interruption: what began it and when, which of its steps count, how many were run
    again later, and how long it took."""

    number: int
    title: str
    when: str
    steps: str
    again: str
    took: str


@dataclass(frozen=True, slots=True)
class Seed:
    """A lifeline with what the seed costs."""

    line: Lifeline
    name: str
    parameters: str


@dataclass(frozen=True, slots=True)
class Story:
    """One run, as the page shows it."""

    run_id: str
    name: str
    """What people call it; empty if they do not."""
    tags: tuple[str, ...]
    notes: str
    params: tuple[tuple[str, str], ...]
    status: str
    steps: int
    headline: str
    summary: str
    warnings: tuple[str, ...]
    tiles: tuple[Tile, ...]
    seeds: tuple[Seed, ...]
    seeds_left_out: int
    ticks: tuple[tuple[int, float], ...]
    """Steps with their places in percent."""
    rewinds: tuple[tuple[float, str], ...]
    """Resumes and rollbacks with their places."""
    entries: tuple[DiaryEntry, ...]
    entries_left_out: int
    gates: tuple[GateEvidence, ...]
    growth: tuple[StoryPart, ...]
    time: tuple[StoryPart, ...]
    facts: tuple[tuple[str, str], ...]
    attempts: tuple[Attempt, ...]
    curves: dict[str, Any]
    metrics_left_out: int
    advice: tuple[Finding, ...]
    kept: int
    sites: int
    loss: float | None
    test: dict[str, float]
    compared: dict[str, str]

    @property
    def label(self) -> str:
        """What tells it from others, for people."""
        return f"{self.name} ({self.run_id})" if self.name else self.run_id


def story(run_id: str, found: Gathered, advice: Sequence[Finding] = ()) -> Story:
    """The story of one run, from the rows that were ``found`` of it and the findings of ``esper explain``."""
    [extent] = found["extent"]
    steps = int(extent["steps"])
    lines = lifelines(found["moves"], found["rollbacks"], steps)
    shown = chosen(lines)
    costs = {row["kernel"]: int(row["parameters"]) for row in found["kernels"]}
    entries, left_out = diary(found)
    told = _Told(found, lines, costs, steps)
    [about] = found["about"]
    drawn = curves(found)
    return Story(
        run_id=run_id,
        name=about["name"],
        tags=tuple(about["tags"]),
        notes=about["notes"],
        params=tuple(dotted(about["params"]).items()),
        status=told.status,
        steps=steps,
        headline=told.headline(),
        summary=told.summary(),
        warnings=tuple(told.warnings()),
        tiles=tuple(told.tiles()),
        seeds=tuple(
            Seed(line, name_of(line.blueprint), many(costs[line.kernel], "parameter") if line.kernel in costs else "")
            for line in shown
        ),
        seeds_left_out=len(lines) - len(shown),
        ticks=ticks(steps),
        rewinds=tuple(_rewinds(found, steps)),
        entries=tuple(entries),
        entries_left_out=left_out,
        gates=tuple(evidence.measured(found["gates"])),
        growth=tuple(told.growth()),
        time=tuple(told.time()),
        facts=tuple(told.facts()),
        attempts=tuple(told.attempts()),
        curves={**drawn, "end": steps, "marks": _marks(shown)},
        metrics_left_out=int(about["metrics"]) - len(drawn["metrics"]),
        advice=tuple(advice),
        kept=len(told.kept),
        sites=told.sites,
        loss=told.loss,
        test=told.test,
        compared=told.compared(),
    )


def ticks(steps: int, most: int = 6) -> tuple[tuple[int, float], ...]:
    """Round numbers of steps from 0, with their places in percent."""
    unit = 1
    while steps / unit > most:
        unit = unit * 5 // 2 if str(unit).startswith("2") else unit * 2
    return tuple((step, round(100 * step / max(steps, 1), 3)) for step in range(0, steps + 1, unit))


def _rewinds(found: Gathered, steps: int) -> list[tuple[float, str]]:
    places = [
        (row["checkpoint"], f"resumed from step {count(row['checkpoint'])}")
        for row in found["resumes"]
        if not row["reopened"]
    ]
    places += [(row["step"], f"rolled back to step {count(row['to_step'])}") for row in found["rollbacks"]]
    return [(round(100 * step / max(steps, 1), 3), text) for step, text in places]


def _marks(lines: list[Lifeline]) -> list[tuple[int, str, str]]:
    """Where seeds joined the network or left it, in the order of steps."""
    return sorted((line.since, line.stage, line.seed) for line in lines if line.stage in ("FOSSILISED", "CULLED"))


class _Told:
    """The words and figures of one run."""

    def __init__(self, found: Gathered, lines: list[Lifeline], costs: dict[str, int], steps: int) -> None:
        self._found, self._lines, self._costs, self._steps = found, lines, costs, steps
        self._run = found["run"][0] if found["run"] else {}
        self._end = found["end"][0] if found["end"] else {}
        [self._extent], [sites] = found["extent"], found["sites"]
        self.kept = [line for line in lines if line.stage == "FOSSILISED"]
        self._gone = [line for line in lines if line.gone is not None]
        self._live = [line for line in lines if line not in self.kept and line not in self._gone]
        self._host = int(self._run.get("parameters", 0))
        self._added = sum(costs.get(line.kernel, 0) for line in self.kept)
        self._seconds = sum(
            (parsed(row["last"]) - parsed(row["time"])).total_seconds() for row in found["attempts"] if row["last"]
        )
        self.test = {name: float(value) for name, value in self._end.get("test", {}).items() if value is not None}
        losses: list[float | None] = [row["loss"] for row in found["boundaries"] if row["loss"] is not None] or [None]
        self._first_loss, self.loss = losses[0], losses[-1]
        if self._end.get("loss") is not None:
            self.loss = float(self._end["loss"])
        self.status = str(self._end.get("status", "not ended"))
        self.sites = int(sites["growable"])

    def headline(self) -> str:
        if not self._lines:
            return "The network has not grown."
        if not self.kept:
            return f"{sentence(many_spelt(len(self._lines), 'seed'))} tried, none kept{' yet' if self._live else ''}."
        tried = len(self._lines)
        if len(self.kept) == tried:
            return f"The network grew: {many_spelt(tried, 'seed')} tried and kept."
        return f"The network grew: it kept {spelt(len(self.kept))} of {spelt(tried)} seeds."

    def summary(self) -> str:
        what = self._run.get("task") or "a program of one's own"
        length, time = many(self._steps, "step"), duration(self._seconds)
        text = f"Trained on {what} for {length} in {time}."
        if not self._end:
            text = f"Has trained on {what} for {length} so far, in {time}."
        parts = [
            f"{spelt(len(lines))} {what}"
            for lines, what in (
                (self.kept, "became part of the network"),
                (self._gone, "did not help enough and left it as it was"),
                (self._live, "is undecided" if len(self._live) == 1 else "are undecided"),
            )
            if lines
        ]
        if len(self._lines) == 1:
            text += f" The one seed {parts[0].partition(' ')[2]}."
        elif parts:
            text += f" Of {many_spelt(len(self._lines), 'seed')}, {listed(parts)}."
        if self._added and self._host:
            text += f" The network is {percent(self._added / self._host)} larger now."
        return text + self._without()

    def _without(self) -> str:
        """What the kept seeds are worth, as the last gate that switched them off has measured it."""
        kept = {line.seed for line in self.kept}
        worth = {row["seed"]: row["ablation"] for row in self._found["gates"] if row["ablation"] is not None}
        parts = [
            f"{figure(abs(loss))} {'higher' if loss >= 0 else 'lower'} without {seed}"
            for seed, loss in worth.items()
            if seed in kept
        ]
        if not parts or len(parts) > WORTHS:
            return ""
        return f" On examples that it never learned from, its loss is {listed(parts)}, as their audits measured."

    def warnings(self) -> list[str]:
        told = []
        if not self._end:
            last = parsed(self._extent["last"])
            told.append(
                f"This run has not ended: it is still training, or its trainer was killed. "
                f"It was last heard of on {moment(last)}."
            )
        elif self._end["detail"]:
            told.append(f"The run {ended(self.status)}: {self._end['detail']}")
        if lost := broken(self._found):
            told.append(f"The loss of {many(lost, 'step')} was not finite; the curve has gaps there.")
        [missing] = self._found["lost"]
        if missing["dropped"]:
            told.append(f"{many(int(missing['dropped']), 'measurement')} could not be sent and are missing here.")
        if not self._run:
            told.append("The beginning of this run is no longer in the log, so some figures are missing.")
        return told

    def tiles(self) -> list[Tile]:
        told = [Tile(sentence(f"test {name}"), measured(name, value)) for name, value in list(self.test.items())[:2]]
        loss = f"from {figure(self._first_loss)} at first" if self._first_loss is not None else "nothing measured yet"
        told.append(Tile("Training loss", figure(self.loss), loss))
        told.append(Tile("Seeds kept", f"{len(self.kept)} of {len(self._lines)}", self._seeds_note()))
        if self._host:
            share = f"+{percent(self._added / self._host)}" if self._added else "nothing added"
            told.append(Tile("Parameters", count(self._host + self._added), share))
        [steps] = self._found["time"]
        a_step = f"{duration(steps['median'])} a step" if steps["median"] else ""
        told.append(Tile("Training time", duration(self._seconds), a_step))
        stops = len(self._found["attempts"]) - 1
        told.append(Tile("Interruptions", spelt(stops) if stops > 0 else "none", self._stops_note()))
        return told

    def growth(self) -> list[StoryPart]:
        """The parameters of the network as it is now."""
        if not self._host:
            return []
        whole = self._host + self._added
        parts = [StoryPart("the network at first", count(self._host), 100 * self._host / whole)]
        if self._added:
            parts.append(StoryPart("grown", count(self._added), 100 * self._added / whole))
        return parts

    def time(self) -> list[StoryPart]:
        """Where the time went."""
        [row] = self._found["time"]
        executed = sum(
            max(attempt["reached"] or 0, attempt["to_step"] or 0) - attempt["from_step"] + 1
            for attempt in self._found["attempts"]
        )
        steps, boundaries = (row["mean"] or 0.0) * max(executed, 0), float(row["boundaries"] or 0.0)
        rest = self._seconds - steps - boundaries
        whole = max(self._seconds, steps + boundaries)
        if not steps or not whole:
            return []
        parts = (
            ("training steps", steps),
            ("Esper: measuring, deciding, gates", boundaries),
            ("the program's own: data, evaluation", max(rest, 0.0)),
        )
        return [StoryPart(name, duration(seconds), 100 * seconds / whole) for name, seconds in parts]

    def facts(self) -> list[tuple[str, str]]:
        [saved] = self._found["checkpoints"]
        tried = sum(self._costs.get(line.kernel, 0) for line in self._gone)
        compiled = [float(row["seconds"]) for row in self._found["kernels"] if row["seconds"] is not None]
        facts = [
            ("Parameters tried and given back", count(tried) if tried else "none"),
            ("Kernels compiled", f"{len(compiled)}, {duration(sum(compiled))} in all" if compiled else "none"),
            ("Checkpoints", f"{count(saved['committed'])}, {size(int(saved['bytes']))} written"),
            ("Events on the log", count(int(self._extent["events"]))),
        ]
        if self._run:
            seed, where = self._run["seed"], self._run["device"]
            facts.append(("Random seed, optimizer, device", f"{seed}, {self._run['optimizer']}, {where}"))
        return facts

    def attempts(self) -> list[Attempt]:
        recovery = {row["epoch"]: row["seconds"] for row in self._found["resumes"] if not row["reopened"]}
        told = []
        for row in self._found["attempts"]:
            began, to_step = parsed(row["time"]), row["to_step"]
            last = self._steps if to_step is None else to_step
            none = last < row["from_step"]
            lost = 0 if to_step is None else max(0, (row["reached"] or 0) - max(to_step, row["from_step"] - 1))
            title = _CAUSES.get(row["cause"], str(row["cause"]))
            if row["cause"] == "resumed" and recovery.get(row["epoch"]) is not None:
                title += f" within {duration(recovery[row['epoch']])}"
            steps = "no step that counts" if none else f"steps {count(row['from_step'])}–{count(last)}"
            again = f"{many(lost, 'step')} run again later" if lost else ""
            told.append(Attempt(row["attempt"], title, moment(began), steps, again, self._took(began, row["last"])))
        return told

    def compared(self) -> dict[str, str]:
        tests = [measured(name, value) for name, value in self.test.items()]
        stops = max(len(self._found["attempts"]) - 1, 0)
        return {
            "status": self.status,
            "task": self._run.get("task") or "(Python)",
            "steps": count(self._steps),
            "loss": figure(self.loss),
            "test": ", ".join(tests) or "–",
            "seeds": f"{len(self.kept)} of {len(self._lines)}",
            "added": f"{count(self._added)}" + (f" (+{percent(self._added / self._host)})" if self._host else ""),
            "seconds": duration(self._seconds),
            "stops": str(stops),
        }

    def _took(self, began: datetime, last: str | None) -> str:
        return duration((parsed(last) - began).total_seconds()) if last else "–"

    def _seeds_note(self) -> str:
        parts = [
            f"{len(lines)} {what}" for lines, what in ((self._gone, "removed"), (self._live, "undecided")) if lines
        ]
        return ", ".join(parts)

    def _stops_note(self) -> str:
        parts = []
        if resumes := sum(row["cause"] == "resumed" for row in self._found["attempts"]):
            parts.append(many(resumes, "resume"))
        if rollbacks := len(self._found["rollbacks"]):
            parts.append(many(rollbacks, "rollback"))
        return ", ".join(parts) or ("ran through in one go" if self._end else "so far")


_CAUSES = {"started": "Started", "resumed": "Resumed from a checkpoint", "rolled back": "Rolled back, and went on"}


def many_spelt(number: int, one: str) -> str:
    """``two seeds``"""
    return f"{spelt(number)} {one}{'' if number == 1 else 's'}"
