"""Built-in blueprints, and definitions that a test spoils."""

from __future__ import annotations

import json
from typing import Any

from esper.events.assets import BlueprintRegistered
from esper.urza import built_in


def named(name: str) -> BlueprintRegistered:
    """The built-in blueprint of that name."""
    return next(content for content in built_in().values() if content.name == name)


def definition(name: str = "bottleneck_mlp") -> dict[str, Any]:
    """Its definition as a JSON value, the test's own."""
    value: dict[str, Any] = json.loads(named(name).definition)
    return value


def spoilt(path: str, value: Any) -> str:
    """The bottleneck MLP's definition with ``value`` at the dotted ``path``; without what is there for KeyError."""
    raw = definition()
    *parents, last = path.split(".")
    place: Any = raw
    for key in parents:
        place = place[int(key) if isinstance(place, list) else key]
    if value is KeyError:
        del place[last]
    else:
        place[int(last) if isinstance(place, list) else last] = value
    return json.dumps(raw)
