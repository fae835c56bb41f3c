"""The asset view: what is known of blueprints and kernels, as small pieces under keys that begin with a blueprint.

``BLUEPRINT`` is the head; ``BLUEPRINT/definition/N`` holds its definition, ``BLUEPRINT/kernel/REQUEST``,
``BLUEPRINT/rejection/REQUEST`` and ``BLUEPRINT/evaluation/ID`` what became of it. Of two answers to one thing the
first stays, as in the library's fold: a piece that is there is never written again. Pure.
"""

from __future__ import annotations

import hashlib
from typing import Any

from esper.events import Event
from esper.events.assets import BlueprintRegistered, KernelCompiled, KernelEvaluated, KernelRejected
from esper.events.encoding.codec import canonical_json, jsonable
from esper.tamiyo.run.view import packed, short
from esper.urza.library import Library, request_of

CHUNK = 4096  # characters of a definition in one piece: below 64 kB however each is escaped
LONGEST = 2000


def pieces(event: Event) -> dict[str, bytes]:
    """The pieces that ``event`` brings, the head last; those that are there already stay as they are."""
    content = event.content
    match content:
        case BlueprintRegistered():
            changed = _registered(content)
        case KernelCompiled():
            changed = {f"kernel/{_request(content)}": _plain(content)}
        case KernelRejected():
            changed = {f"rejection/{_request(content)}": _plain(content)}
        case KernelEvaluated():
            changed = {f"evaluation/{event.envelope.id}": _plain(content)}
        case _:
            return {}
    key, identity = content.blueprint, str(event.envelope.id)
    return {f"{key}/{p}" if p else key: packed({"id": identity, "state": state}) for p, state in changed.items()}


def states(library: Library) -> dict[str, dict[str, Any]]:
    """The states of all pieces of ``library``, by key: what a view that is up to date holds."""
    found: dict[str, dict[str, Any]] = {}
    for blueprint in library.blueprints.values():
        changed = _registered(blueprint)
        found |= {f"{blueprint.blueprint}/{p}" if p else blueprint.blueprint: state for p, state in changed.items()}
    for kernel in library.kernels.values():
        found[f"{kernel.blueprint}/kernel/{_request(kernel)}"] = _plain(kernel)
    for rejection in library.rejections.values():
        found[f"{rejection.blueprint}/rejection/{_request(rejection)}"] = _plain(rejection)
    for identity, evaluation in library.evaluations.items():
        found[f"{evaluation.blueprint}/evaluation/{identity}"] = _plain(evaluation)
    return found


def _registered(content: BlueprintRegistered) -> dict[str, dict[str, Any]]:
    text = content.definition
    parts = [text[start : start + CHUNK] for start in range(0, len(text), CHUNK)]
    changed: dict[str, dict[str, Any]] = {f"definition/{n}": {"text": part} for n, part in enumerate(parts)}
    state = {
        "name": short(content.name),
        "version": content.version,
        "kinds": [short(kind) for kind in content.kinds[:32]],
        "tags": [short(tag) for tag in content.tags[:32]],
        "parents": [short(parent) for parent in content.parents[:32]],
        "definition": len(parts),
    }
    return changed | {"": state}


def _request(content: KernelCompiled | KernelRejected) -> str:
    """A name for what was asked for, apart from the blueprint."""
    asked = canonical_json(request_of(content)[1:])
    return hashlib.sha256(asked.encode()).hexdigest()[:16]


def _plain(content: Any) -> dict[str, Any]:
    """The content's fields; those that the pieces of older events lack only where they say something."""
    plain: dict[str, Any] = jsonable(content)
    known = {name: value for name, value in plain.items() if value is not None or name not in ("geometry", "dtype")}
    return {name: short(value, LONGEST) if isinstance(value, str) else value for name, value in known.items()}
