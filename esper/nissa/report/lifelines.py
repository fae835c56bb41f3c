"""The seeds' lives as bars over the run's steps, for the report."""

from __future__ import annotations

from dataclasses import dataclass, field

from esper.kasmina.seed.stages import LIVE, Stage
from esper.nissa.report.gather import Rows
from esper.nissa.report.words import count

STAGES = {
    "GERMINATED": "its kernel is loaded and being checked",
    "TRAINING": "learns beside the network, which does not notice",
    "BLENDING": "its effect is turned up step by step",
    "HOLDING": "full effect, on probation",
    "FOSSILISED": "part of the network for good",
    "CULLED": "removed again",
}
"""What a stage means."""
REMOVED = "REMOVED"
"""Where a seed is that a rollback has unmade."""
SHOWN = 60


@dataclass(frozen=True, slots=True)
class Lifespan:
    """A seed in one stage. ``left`` and ``width`` are percents of the run."""

    stage: str
    start: int
    end: int
    left: float
    width: float

    @property
    def title(self) -> str:
        """The stage, and the steps from which and to which it lasted, in words."""
        return f"{self.stage.lower()}: steps {count(self.start)} to {count(self.end)}"


@dataclass(frozen=True, slots=True)
class Lifeline:
    """One seed. ``stage`` is its last, ``since`` the step at which that began, ``gone`` where it left (percent)."""

    seed: str
    site: str
    blueprint: str
    kernel: str
    stage: str
    since: int
    born: int
    spans: tuple[Lifespan, ...]
    gone: float | None

    @property
    def fate(self) -> str:
        """What became of the seed, and at which step, in words."""
        at = f"at step {count(self.since)}"
        match self.stage:
            case "FOSSILISED":
                return f"became part of the network {at}"
            case "CULLED":
                return f"removed {at}"
            case "REMOVED":
                return f"undone by a rollback {at}"
        return f"{self.stage.lower()} since step {count(self.since)}"


@dataclass(slots=True)
class _Life:
    first: dict[str, object]
    now: list[tuple[int, str]] = field(default_factory=list)  # as a rollback leaves it
    drawn: list[tuple[int, str]] = field(default_factory=list)


def lifelines(moves: Rows, rollbacks: Rows, steps: int) -> list[Lifeline]:
    """Every seed, the one born first at the front. ``moves`` and ``rollbacks`` are in order."""
    lives: dict[str, _Life] = {}
    for row in sorted([*moves, *rollbacks], key=lambda row: int(row["sequence"])):
        if "seed" in row:
            life = lives.setdefault(row["seed"], _Life(row))
            life.now.append((row["step"], row["stage"]))
            life.drawn.append((row["step"], row["stage"]))
        else:
            for life in lives.values():
                _rolled_back(life, row["step"], row["to_step"])
    return [_drawn(seed, life, steps) for seed, life in lives.items()]


def chosen(lines: list[Lifeline], most: int = SHOWN) -> list[Lifeline]:
    """At most ``most`` of them, in their order: those that were kept or are alive, then those removed last."""
    lasting = {Stage.FOSSILISED, *LIVE}
    first = [line for line in lines if line.stage in lasting]
    rest = [line for line in lines if line.stage not in lasting]
    keep = {line.seed for line in [*first[::-1], *rest[::-1]][:most]}
    return [line for line in lines if line.seed in keep]


def _rolled_back(life: _Life, step: int, to_step: int) -> None:
    """As the fold does it: what the seed has become since ``to_step`` is undone."""
    kept = [(at, stage) for at, stage in life.now if at <= to_step]
    if kept != life.now:
        life.now = kept
        life.drawn.append((step, kept[-1][1] if kept else REMOVED))


def _drawn(seed: str, life: _Life, steps: int) -> Lifeline:
    def percent(step: int) -> float:
        return round(100 * step / max(steps, 1), 3)

    spans, gone = [], None
    ends = [at for at, _ in life.drawn[1:]] + [steps]
    for (start, stage), end in zip(life.drawn, ends, strict=True):
        if stage not in (Stage.CULLED, REMOVED):
            spans.append(Lifespan(stage, start, max(start, end), percent(start), percent(max(end - start, 0))))
    since, last = life.drawn[-1]
    if last in (Stage.CULLED, REMOVED):
        gone = percent(since)
    first = life.first
    named = {name: str(first[name]) for name in ("site", "blueprint", "kernel")}
    return Lifeline(seed, **named, stage=last, since=since, born=life.drawn[0][0], spans=tuple(spans), gone=gone)
