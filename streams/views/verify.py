"""Compares the views that lie in a generation's changelogs with a fresh fold of the log."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from esper.errors import LogError
from esper.events.topics import ASSETS, RUNS
from esper.log.exclusions import excluded
from esper.log.ordering import once
from esper.log.port import Log
from esper.tamiyo.run.view import RunView, run_of, same, unpacked
from esper.urza.library import Library, fold
from esper.urza.view import states
from streams.views.generations import Generation, partitions

TRIES = 5
"""Looks, a second apart, before workers count as behind in assets."""


@dataclass(frozen=True, slots=True)
class ViewDifference:
    """A piece that is not what a fresh fold makes."""

    view: str
    key: str
    what: str


@dataclass(frozen=True, slots=True)
class ViewsReport:
    """What was compared. ``behind``: runs whose view lacks their newest events, and how many."""

    generation: int
    runs: int
    pieces: int
    behind: dict[str, int]
    differences: list[ViewDifference]
    ok: bool


def report(generation: Generation) -> ViewsReport:
    """The comparison; a view is compared as of the event that it has reached. Raises LogError if there are none."""
    if not partitions(generation.log, [generation.changelog("runs")]):
        raise LogError(f"{generation.log.url}: there are no views yet; `esper worker` keeps them")
    differences, behind, compared = [], {}, 0
    kept = _by_run(contents(generation, "runs"))
    runs = _runs(generation)
    for run_id in sorted(runs | kept.keys()):
        found, missing = _compare(generation, run_id, kept.get(run_id, {}))
        differences += found
        compared += len(kept.get(run_id, {}))
        if missing:
            behind[run_id] = missing
    found, assets = _assets(generation)
    differences += found
    return ViewsReport(generation.number, len(runs), compared + assets, behind, differences, not differences)


def contents(generation: Generation, table: str) -> dict[str, bytes]:
    """What a table's changelog holds, by key."""
    log, name = generation.log, generation.changelog(table)
    topic = name.removeprefix(log.address.named(""))
    held: dict[str, bytes] = {}
    for partition, end in log.reader.ends(topic, range(partitions(log, [name])[name])).items():
        for message in log.reader.messages(topic, partition, 0, end):
            key, value = (message.key() or b"").decode(errors="replace"), message.value()
            if value is None:
                held.pop(key, None)
            else:
                held[key] = value
    return held


def _by_run(held: dict[str, bytes]) -> dict[str, dict[str, bytes]]:
    runs: dict[str, dict[str, bytes]] = {}
    for key, value in held.items():
        runs.setdefault(run_of(key), {})[key] = value
    return runs


def _runs(generation: Generation) -> set[str]:
    """The runs that a view should have: those with a record that is an event, or was meant as one."""
    return {
        entry.record.key
        for entry in generation.log.read(RUNS)
        if (entry.error is None or entry.record.sequence is not None) and "/" not in entry.record.key
    }


def _compare(generation: Generation, run_id: str, kept: dict[str, bytes]) -> tuple[list[ViewDifference], int]:
    """The pieces that differ, and how many events the view is behind."""
    head = unpacked(kept.get(run_id))
    reached = head["sequence"] if head is not None else 0
    trouble = head is not None and head["state"].get("quarantine") is not None
    fresh, last = _folded(generation.log, run_id, reached, trouble)
    if head is None and fresh.get(run_id) is None and last:
        return [ViewDifference("runs", run_id, "it has no view")], 0
    found = [
        ViewDifference("runs", key, _difference(kept.get(key), fresh.get(key)))
        for key in sorted(kept.keys() | fresh.keys())
        if not same(kept.get(key), fresh.get(key))
    ]
    return found, max(last - reached, 0) if not trouble else 0


def _folded(log: Log, run_id: str, reached: int, trouble: bool) -> tuple[dict[str, bytes], int]:
    """All pieces after event ``reached`` (and what troubled the run then), and the run's last sequence number."""
    view, last = RunView(run_id, lambda entry, error: None, excluded(log, run_id)), 0
    fresh: dict[str, bytes] = {}
    for entry in log.read(RUNS, key=run_id):
        last = max(last, entry.record.sequence or 0)
        if view.state.sequence >= reached and not trouble:
            continue
        for key, value in view.take(entry)[1].items():
            if value is None:
                fresh.pop(key, None)
            else:
                fresh[key] = value
    return fresh, last


def _difference(kept: bytes | None, fresh: bytes | None) -> str:
    if kept is None:
        return "it is missing"
    if fresh is None:
        return "it should not be there"
    live, folded = unpacked(kept), unpacked(fresh)
    if live is None or folded is None:
        return "it cannot be read"
    return (
        f"it was made at event {live['sequence']} with digest {str(live.get('digest'))[:12]}; a fold makes it at event "
        f"{folded['sequence']} with digest {str(folded.get('digest'))[:12]}"
    )


def _assets(generation: Generation) -> tuple[list[ViewDifference], int]:
    """The asset view against the library's fold; it has no sequence, so what is missing gets a little time."""
    for attempt in range(TRIES):
        events = (event for _, event in once(generation.log.read(ASSETS)))
        wanted = states(fold(Library(), events))
        held = {key: _state(value) for key, value in contents(generation, "assets").items()}
        keys = sorted(key for key in wanted.keys() | held.keys() if wanted.get(key) != held.get(key))
        if not keys or keys_differ(keys, wanted, held) or attempt == TRIES - 1:
            break
        time.sleep(1)
    return [ViewDifference("assets", key, _said(wanted.get(key), held.get(key))) for key in keys], len(wanted)


def keys_differ(keys: list[str], wanted: dict[str, Any], held: dict[str, Any]) -> bool:
    """Whether any difference is more than a piece that is still to come."""
    return any(key in held for key in keys)


def _said(wanted: Any, held: Any) -> str:
    return "it is missing" if held is None else "it should not be there" if wanted is None else "it is another"


def _state(value: bytes) -> Any:
    try:
        return json.loads(value)["state"]
    except (ValueError, KeyError, TypeError):
        return None
