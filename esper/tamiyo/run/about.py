"""What people say of a run: name, tags, notes, hyper-parameters and data, checked; how commands change them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from esper.errors import UsageError
from esper.events.encoding.codec import canonical_json
from esper.events.runs import DataFile, RunDescribed
from esper.events.signals import CommandIssued
from esper.tamiyo.run.state import RunState

KINDS = ("rename", "tag", "untag", "note")
NAME, NOTE, TAGS, PARAMS = 200, 10_000, 100, 64_000  # characters of a name or tag, of a note; tags; bytes


def named(name: str) -> str:
    """``name`` itself, of a run, or a tag; raises UsageError for one that is not one printable line."""
    if not isinstance(name, str) or not name.strip() or len(name) > NAME or not name.isprintable():
        raise UsageError(f"{str(name)[:40]!r} is no name or tag; use up to {NAME} printable characters in one line")
    return name.strip()


def tagged(tags: Iterable[str]) -> tuple[str, ...]:
    """Sorted, each once; raises UsageError."""
    if isinstance(tags, str):
        raise UsageError(f"tags={tags!r} is one text; give a list, such as tags=[{tags!r}]")
    found = tuple(sorted({named(tag) for tag in tags}))
    if len(found) > TAGS:
        raise UsageError(f"{len(found)} tags are too many; a run has {TAGS} at most")
    return found


def noted(notes: str) -> str:
    """``notes`` itself; raises UsageError if it is too long or no text."""
    if not isinstance(notes, str) or len(notes) > NOTE or not notes.replace("\n", "").replace("\t", "").isprintable():
        raise UsageError(f"notes are up to {NOTE:,} printable characters; what was given is not")
    return notes


def canonical_params(params: Mapping[str, Any] | None) -> str | None:
    """Hyper-parameters as canonical JSON of an object; NumPy's numbers are numbers, paths and enums texts. Raises
    UsageError for what is no JSON, or too long."""
    if params is None:
        return None
    if not isinstance(params, Mapping) or not all(isinstance(key, str) for key in params):
        raise UsageError('params= takes values by name, such as {"width": 64}')
    try:
        text = canonical_json(_plain(params))
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"params= cannot be kept as JSON ({error}); give numbers, texts, lists and objects") from error
    if len(text.encode()) > PARAMS:
        raise UsageError(f"params= has {len(text):,} characters as JSON; {PARAMS:,} bytes are allowed")
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    if isinstance(value, Path | Enum):
        return str(value)
    raise TypeError(f"{type(value).__name__} is none of these")


def digested(data: Mapping[str, str | Path]) -> tuple[DataFile, ...]:
    """Files by the names that they are given, with their SHA-256; raises UsageError for one that cannot be read."""
    found = []
    for name, path in data.items():
        try:
            with Path(path).open("rb") as file:
                found.append(DataFile(name=named(name), sha256=hashlib.file_digest(file, "sha256").hexdigest()))
        except OSError as error:
            raise UsageError(f"data= names {path}, which cannot be read: {error.strerror or error}") from error
    return tuple(found)


def described(now: RunState, kind: str, value: str) -> RunDescribed:
    """What a run is called once the command ``kind`` was obeyed. Raises UsageError for a value that cannot be taken."""
    name, tags, notes = now.name, now.tags, now.notes
    if kind == "rename":
        name = named(value)
    elif kind == "tag":
        tags = tagged((*tags, value))
    elif kind == "untag":
        tags = tuple(tag for tag in tags if tag != value.strip())
    elif kind == "note":
        notes = noted(value) or None
    return RunDescribed(name=name, tags=tags, notes=notes)


def obeyed(now: RunState, asked: CommandIssued | None) -> RunDescribed:
    """What a run is called once it has obeyed; a value that cannot be taken changes nothing."""
    try:
        return described(now, asked.command if asked else "", (asked.value if asked else None) or "")
    except UsageError:
        return RunDescribed(name=now.name, tags=now.tags, notes=now.notes)


def flat(text: str) -> dict[str, Any]:
    """The values of a JSON object by dotted names."""
    found: dict[str, Any] = {}

    def walk(value: Any, name: str) -> None:
        if isinstance(value, dict) and value:
            for key, each in value.items():
                walk(each, f"{name}.{key}" if name else str(key))
        else:
            found[name] = value

    walk(json.loads(text), "")
    found.pop("", None)
    return found
