"""What happened in a run, in order and in words: decisions, what became of the seeds, interruptions, the end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from esper.nissa.report.evidence import brief
from esper.nissa.report.gather import Gathered, Rows
from esper.nissa.report.words import count, listed, many

SHOWN = 300
_SIZE = re.compile(r" \(([\d,]+ parameters)\) at ")


@dataclass(frozen=True, slots=True)
class DiaryEntry:
    """``kind`` is one of grow, wait, blend, keep, cull, stop, refuse, end. ``also`` is the last of many reasons."""

    sequence: int
    first: int
    last: int
    kind: str
    title: str
    text: str
    also: str = ""

    @property
    def when(self) -> str:
        """The step, or the first and the last, in words."""
        if self.first == self.last:
            return f"step {count(self.first)}"
        return f"steps {count(self.first)}–{count(self.last)}"


def diary(found: Gathered) -> tuple[list[DiaryEntry], int]:
    """The last entries, in order, and how many before them are left out."""
    decisions, moves = found["decisions"], found["moves"]
    entries = sorted(
        [*_decided(decisions), *_moved(moves, found["gates"]), *_interrupted(found), *_ended(found["end"])],
        key=lambda entry: entry.sequence,
    )
    left_out = (decisions[0]["total"] - len(decisions) if decisions else 0) + max(0, len(entries) - SHOWN)
    return entries[-SHOWN:], left_out


def name_of(blueprint: str) -> str:
    """``low_rank@d4ff2a0f5322`` without its digest."""
    return blueprint.partition("@")[0]


def ended(status: str) -> str:
    """``completed`` and ``failed`` as they are, ``was paused``, ``was cancelled``"""
    return status if status in ("completed", "failed") else f"was {status}"


def _decided(rows: Rows) -> Iterator[DiaryEntry]:
    for row in rows:
        kind, title = _decision(row)
        text = row["reason"]
        if row["action"] == "wait":
            text = text.removeprefix("waiting: ")
        elif row["action"] == "germinate":
            text = _without_title(row, text)
        also = row["last_reason"].removeprefix("waiting: ") if row["last_reason"] != row["reason"] else ""
        if row["issuer"]:
            text = f"{text} (proposed by {row['issuer']})"
        yield DiaryEntry(row["sequence"], row["first"], row["last"], kind, title, text, also)


def _decision(row: dict[str, Any]) -> tuple[str, str]:
    if row["outcome"] == "rejected":
        return "refuse", "A proposal is refused"
    if row["action"] == "wait":
        return "wait", "Wait" if row["boundaries"] == 1 else f"Wait, {many(row['boundaries'], 'time')} in a row"
    if row["action"] == "germinate":
        return "grow", f"Try {name_of(row['blueprint'])} at {row['site']}"
    return "grow", f"{row['action'].capitalize()} {row['seed'] or row['site']}".strip()


def _without_title(row: dict[str, Any], text: str) -> str:
    """``low_rank (370 parameters) at out: gradient …`` without what the title says already."""
    name, site = name_of(row["blueprint"]), row["site"]
    size = _SIZE.match(text.removeprefix(name))
    if size is None or not text.startswith(start := f"{name}{size[0]}{site}: "):
        return text
    return f"{size[1]}; {text.removeprefix(start)}"


def _moved(moves: Rows, gates: Rows) -> Iterator[DiaryEntry]:
    reasons = {row["sequence"]: brief(row) for row in gates}
    for row in moves:
        if row["stage"] not in _MOVES:
            continue
        kind, title = _MOVES[row["stage"]]
        reason = reasons.get(row["sequence"], f"by a {row['cause']}")
        yield DiaryEntry(row["sequence"], row["step"], row["step"], kind, f"{row['seed']} {title}", reason)


_MOVES = {
    "BLENDING": ("blend", "has proved itself and is blended in"),
    "FOSSILISED": ("keep", "becomes part of the network"),
    "CULLED": ("cull", "is removed"),
}


def _interrupted(found: Gathered) -> Iterator[DiaryEntry]:
    for row in found["resumes"]:
        step = row["checkpoint"]
        text = "on another kind of machine, so not bit for bit" if row["inexact"] else "bit for bit as it was"
        title = f"Resumed from the checkpoint at step {count(step)}"
        if row["reopened"]:
            title, text = "The log gave the writer up; the trainer went on with another", "no step was run again"
        yield DiaryEntry(row["sequence"], step, step, "stop", title, text)
    for row in found["rollbacks"]:
        removed = f"; {listed(row['removed'])} with it" if row["removed"] else ""
        title = f"Rolled back to the checkpoint at step {count(row['to_step'])}"
        yield DiaryEntry(row["sequence"], row["step"], row["step"], "stop", title, f"{row['cause']}{removed}")


def _ended(rows: Rows) -> Iterator[DiaryEntry]:
    for row in rows:
        yield DiaryEntry(
            row["sequence"], row["step"], row["step"], "end", f"The run {ended(row['status'])}", row["detail"]
        )
