"""What is different between runs, as far as their logs say. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from esper.events.runs import RunStarted
from esper.tamiyo.run.about import flat
from esper.tamiyo.run.state import RunState

PROGRAM = "what else their programs do, such as their loss, epochs and schedules, is not on the log"
NONE = "-"


@dataclass(frozen=True, slots=True)
class Row:
    """Something that was said or measured of each run; None where it was not."""

    group: str
    name: str
    values: tuple[Any, ...]

    @property
    def same(self) -> bool:
        """Whether all runs have the same value."""
        return all(value == self.values[0] for value in self.values)


@dataclass(frozen=True, slots=True)
class Differences:
    """``rows`` are those that differ and ``same`` the names of those that do not, by group. ``known`` says in words
    what follows about the runs' beginnings; ``results`` are what they came to."""

    runs: tuple[str, ...]
    rows: tuple[Row, ...]
    same: Mapping[str, tuple[str, ...]]
    results: tuple[Row, ...]
    known: str


def differences(runs: Sequence[tuple[RunStarted, RunState]]) -> Differences:
    """Between runs, each with its first event and its present state."""
    given = [_given(started) for started, _ in runs]
    keys = list(dict.fromkeys(key for each in given for key in each))
    rows = [Row(*key, tuple(each.get(key) for each in given)) for key in keys]
    same: dict[str, list[str]] = {}
    for row in rows:
        if row.same:
            same.setdefault(row.group, []).append(row.name)
    other = tuple(row for row in rows if not row.same)
    alike = {group: tuple(names) for group, names in same.items()}
    return Differences(
        tuple(state.run_id for _, state in runs),
        other,
        alike,
        _results([state for _, state in runs]),
        _known(runs, other),
    )


def _given(started: RunStarted) -> dict[tuple[str, str], Any]:
    """What a run was begun with, by group and name."""
    found: dict[tuple[str, str], Any] = {("params", key): value for key, value in flat(started.params or "{}").items()}
    found |= {("settings", key): value for key, value in flat(started.settings).items()}
    found |= {("data", each.name): each.sha256[:12] for each in started.data}
    found["data", "gate data"] = started.gate.digest[:12] if started.gate else None
    environment = started.environment
    names = type(environment).__dataclass_fields__
    found |= {("versions", name): _plain(getattr(environment, name)) for name in names}
    found["versions", "rules"] = started.rules
    found["model", "parameters and buffers"] = _short(json.dumps([started.model.shapes, started.model.dtypes]))
    found["model", "initial weights"] = started.parameters_digest[:12]
    found["model", "optimizer"] = started.optimizer
    found["model", "clip_norm"] = started.clip_norm
    found["start", "task"] = started.task
    found["start", "seed"] = started.seed
    found["start", "best"] = started.best
    return found


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _short(text: str) -> str:
    """A long text's beginning, with a digest of all of it, so that different texts stay different."""
    return text if len(text) <= 40 else f"{text[:30]}… {sha256(text.encode()).hexdigest()[:8]}"


def _results(states: Sequence[RunState]) -> tuple[Row, ...]:
    rows = [
        Row("result", "status", tuple(state.status for state in states)),
        Row("result", "steps", tuple(state.step for state in states)),
        Row("result", "epochs at the last boundary", tuple(state.epoch + 1 for state in states)),
        Row("result", "training loss", tuple(state.last_loss() for state in states)),
        Row("result", "seeds", tuple(_seeds(state) for state in states)),
    ]
    tests = dict.fromkeys(name for state in states for name in state.test)
    rows += [Row("test", name, tuple(state.test.get(name) for state in states)) for name in tests]
    metrics = dict.fromkeys(name for state in states for name in state.metrics)
    for name in metrics:
        found = [state.metrics.get(name) for state in states]
        rows.append(Row("last", name, tuple(each.value if each else None for each in found)))
        rows.append(Row("least", name, tuple(each.least if each else None for each in found)))
        rows.append(Row("greatest", name, tuple(each.most if each else None for each in found)))
    return tuple(rows)


def _seeds(state: RunState) -> str:
    return ", ".join(f"{count} {stage.lower()}" for stage, count in state.stages().items()) or "none"


def _known(runs: Sequence[tuple[RunStarted, RunState]], other: Sequence[Row]) -> str:
    """What can be said of how the runs began."""
    groups = list(dict.fromkeys(row.group for row in other))
    if groups:
        return f"They began with different {_listed(groups)}; {PROGRAM}."
    if all(started.task for started, _ in runs):
        return "They began with all the same: task, data, model, settings, seed and versions."
    return f"All that is on the log of their beginnings is the same; {PROGRAM}."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
