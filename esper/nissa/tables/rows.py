"""What an event says, as rows of the typed tables. Pure; the tables are in ``migrations``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from math import prod
from typing import Any

from esper.errors import DecodeError
from esper.events import Event, assets, runs
from esper.events.topics import ASSETS, RUNS

Values = dict[str, Any]
Row = tuple[str, Values]
"""A table's name, and a row's values by column."""

SMALL, LARGE = (1 << 32) - 1, (1 << 63) - 1
"""The largest numbers of columns that hold none below zero; the log holds none that is larger."""
_MOST = dict.fromkeys(("epoch", "batch", "site_index", "sites", "alternatives"), SMALL) | dict.fromkeys(
    ("sequence", "step", "from_step", "to_step", "checkpoint", "parameters", "bytes"), LARGE
)


def rows_of(event: Event, topic: str, key: str) -> list[Row]:
    """The rows of one event under its record's ``key``; none if no typed table is about it, or it is on a topic where
    none such belongs. Raises DecodeError for an event whose parts do not fit each other or the columns."""
    make = _MAKERS.get(type(event.content))
    if make is None or _TOPICS[type(event.content)] != topic:
        return []
    try:
        rows = list(make(event, key, event.content))
    except (ValueError, TypeError, LookupError) as error:
        raise DecodeError(f"its parts do not fit each other: {error}") from error
    for _, row in rows:
        for name, value in row.items():
            if name in _MOST and (value is None or not 0 <= value <= _MOST[name]):
                raise DecodeError(f"{name} cannot be {value}")
    return rows


def _of_run(event: Event, run_id: str) -> Values:
    return {"run_id": run_id, "sequence": event.envelope.sequence, "time": event.envelope.time}


def _started(event: Event, key: str, started: runs.RunStarted) -> Iterator[Row]:
    at = _of_run(event, key)
    yield (
        "runs",
        {
            "run_id": key,
            "time": event.envelope.time,
            "task": str(json.loads(started.task)["name"]) if started.task else "",
            "seed": started.seed,
            "parameters": sum(map(prod, started.model.shapes)),
            "sites": len(started.sites.names),
            "optimizer": started.optimizer,
            "device": started.environment.device,
            "settings": started.settings,
        },
    )
    yield "attempt_starts", {**at, "epoch": event.envelope.epoch, "from_step": 1, "cause": "started"}
    yield "descriptions", {**_said(event, key, started), "params": started.params or ""}
    yield from _sites(event, key, started.sites)


def _said(event: Event, key: str, said: runs.RunStarted | runs.RunDescribed) -> Values:
    return {**_of_run(event, key), "name": said.name or "", "tags": list(said.tags), "notes": said.notes or ""}


def _described(event: Event, key: str, described: runs.RunDescribed) -> Iterator[Row]:
    yield "descriptions", {**_said(event, key, described), "params": ""}


def _logged(event: Event, key: str, logged: runs.MetricsLogged) -> Iterator[Row]:
    at = _of_run(event, key)
    for metric, step, value in zip(logged.metrics, logged.steps, logged.values, strict=True):
        yield "metrics", {**at, "metric": logged.names[metric], "step": step, "value": value}


def _resumed(event: Event, key: str, resumed: runs.RunResumed) -> Iterator[Row]:
    at = {**_of_run(event, key), "epoch": event.envelope.epoch}
    yield (
        "resumes",
        {
            **at,
            "checkpoint": resumed.checkpoint,
            "inexact": resumed.inexact,
            "reopened": resumed.reopened,
            "seconds": _seconds(resumed),
        },
    )
    if not resumed.reopened:  # the same trainer, with another writer, executes no step again
        yield "attempt_starts", {**at, "from_step": resumed.checkpoint + 1, "cause": "resumed"}


def _rolled_back(event: Event, key: str, back: runs.RolledBack) -> Iterator[Row]:
    at = _of_run(event, key)
    told = {"step": back.step, "to_step": back.to_step, "cause": back.cause, "removed": list(back.removed)}
    yield "rollbacks", {**at, **told}
    start = {"epoch": event.envelope.epoch, "from_step": back.step + 1, "cause": "rolled back"}
    yield "attempt_starts", {**at, **start}


def _boundary(event: Event, key: str, boundary: runs.BoundaryReached) -> Iterator[Row]:
    at = _of_run(event, key)
    names = ("step", "epoch", "batch", "loss", "learning_rate", "digest")
    yield "boundaries", {**at, **_taken(boundary, names), "seconds": _seconds(boundary)}
    if boundary.sites is not None:
        yield from _sites(event, key, boundary.sites)
    if boundary.health is not None:
        measured = asdict(boundary.health)
        index = measured.pop("site")
        for place, site in enumerate(index):
            values = {name: of[place] for name, of in measured.items()}
            yield (
                "site_health",
                {
                    "run_id": key,
                    "sequence": at["sequence"],
                    "step": boundary.step,
                    "site_index": site,
                    **values,
                },
            )
    for trial in boundary.trials:
        yield "trials", {"run_id": key, "sequence": at["sequence"], "step": boundary.step, **asdict(trial)}


def _sites(event: Event, key: str, table: runs.SiteTable) -> Iterator[Row]:
    of = zip(table.names, table.kinds, table.dims, table.reasons, strict=True)
    for place, (site, kind, dims, reason) in enumerate(of):
        told = {"site_index": place, "site": site, "kind": kind, "dims": list(dims), "reason": reason or ""}
        yield "sites", {"run_id": key, "sequence": event.envelope.sequence, **told}


def _transitioned(event: Event, key: str, moved: runs.SeedTransitioned) -> Iterator[Row]:
    at = _of_run(event, key)
    names = ("step", "site", "seed", "blueprint", "kernel", "from_stage", "cause")
    taken = _taken(moved, names)
    yield "seed_transitions", {**at, **taken, "stage": moved.to_stage, "gate": moved.gate or ""}
    if moved.evidence is not None:
        place = _taken(moved, ("step", "site", "seed", "blueprint", "kernel"))
        yield "gates", {**at, **place, "gate": moved.gate or "", **asdict(moved.evidence)}


def _decided(event: Event, key: str, made: runs.DecisionMade) -> Iterator[Row]:
    names = ("decision", "step", "policy", "version", "action", "propensity", "reason")
    where = {name: getattr(made, name) or "" for name in ("site", "blueprint", "seed", "issuer")}
    measured = made.measured or {}
    seconds = measured.get("seconds", measured.get("latency"))  # the trainer's own decision, another's
    told = {"outcome": "made", "alternatives": len(made.alternatives), "seconds": seconds}
    yield "decisions", {**_of_run(event, key), **_taken(made, names), **where, **told}


def _rejected(event: Event, key: str, rejected: runs.DecisionRejected) -> Iterator[Row]:
    told = {"outcome": "rejected", "site": rejected.site or "", "issuer": rejected.issuer or ""}
    reason = f"{rejected.reason}: {rejected.detail}" if rejected.detail else rejected.reason
    yield "decisions", {**_of_run(event, key), **_taken(rejected, ("decision", "step")), **told, "reason": reason}


def _committed(event: Event, key: str, made: runs.CheckpointCommitted) -> Iterator[Row]:
    told = {"event": "committed", "bytes": made.size, "seconds": _seconds(made)}
    yield "checkpoints", {**_of_run(event, key), **_taken(made, ("step", "manifest", "reason")), **told}


def _retired(event: Event, key: str, retired: runs.CheckpointRetired) -> Iterator[Row]:
    yield "checkpoints", {**_of_run(event, key), **_taken(retired, ("step", "manifest")), "event": "retired"}


def _ended(
    status: str, loss: Callable[[Any], float | None], detail: Callable[[Any], str]
) -> Callable[[Event, str, Any], Iterator[Row]]:
    def make(event: Event, key: str, end: Any) -> Iterator[Row]:
        told = {"status": status, "step": end.step, "loss": loss(end), "detail": detail(end)}
        yield "run_ends", {**_of_run(event, key), **told, "test": getattr(end, "test", {})}

    return make


def _kernel(name: str) -> Callable[[Event, str, Any], Iterator[Row]]:
    def make(event: Event, key: str, of: Any) -> Iterator[Row]:
        told = {"time": event.envelope.time, "event": name, **_taken(of, ("blueprint", "kind")), "dims": list(of.dims)}
        more = {"kernel": "kernel", "parameters": "parameters", "bytes": "size", "reason": "reason"}
        given = {column: getattr(of, field) for column, field in more.items() if hasattr(of, field)}
        yield "kernels", {**told, **given, "seconds": _seconds(of)}

    return make


def _evaluated(event: Event, key: str, of: assets.KernelEvaluated) -> Iterator[Row]:
    told = {**_taken(of, ("blueprint", "kernel", "kind", "gate")), "dims": list(of.dims)}
    yield "kernel_gates", {"time": event.envelope.time, **told, **asdict(of.evidence)}


def _registered(event: Event, key: str, of: assets.BlueprintRegistered) -> Iterator[Row]:
    if not 0 <= of.version <= SMALL:
        raise DecodeError(f"version cannot be {of.version}")
    told = _taken(of, ("blueprint", "name", "version"))
    lists = {name: list(getattr(of, name)) for name in ("kinds", "tags", "parents")}
    yield "blueprints", {"time": event.envelope.time, **told, **lists}


def _taken(content: Any, names: tuple[str, ...]) -> Values:
    return {name: getattr(content, name) for name in names}


def _seconds(content: Any) -> float | None:
    return (content.measured or {}).get("seconds")


_MAKERS: dict[type, Callable[[Event, str, Any], Iterator[Row]]] = {
    runs.RunStarted: _started,
    runs.RunResumed: _resumed,
    runs.RunDescribed: _described,
    runs.MetricsLogged: _logged,
    runs.RolledBack: _rolled_back,
    runs.RunCompleted: _ended("completed", lambda end: end.final_loss, lambda end: ""),
    runs.RunFailed: _ended("failed", lambda end: None, lambda end: end.cause),
    runs.RunCancelled: _ended("cancelled", lambda end: None, lambda end: end.reason),
    runs.RunPaused: _ended("paused", lambda end: None, lambda end: end.reason),
    runs.BoundaryReached: _boundary,
    runs.SeedTransitioned: _transitioned,
    runs.DecisionMade: _decided,
    runs.DecisionRejected: _rejected,
    runs.CheckpointCommitted: _committed,
    runs.CheckpointRetired: _retired,
    assets.KernelRequested: _kernel("requested"),
    assets.KernelCompiled: _kernel("compiled"),
    assets.KernelRejected: _kernel("rejected"),
    assets.KernelEvaluated: _evaluated,
    assets.BlueprintRegistered: _registered,
}
_TOPICS = {kind: ASSETS if kind.__module__ == assets.__name__ else RUNS for kind in _MAKERS}
"""Where the events that rows follow from belong."""
