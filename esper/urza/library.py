"""The library: the built-in blueprints, and everything known of blueprints and kernels as a fold of events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from uuid import UUID

from esper.errors import UsageError
from esper.events.assets import (
    BlueprintRegistered,
    KernelCompiled,
    KernelEvaluated,
    KernelRejected,
    KernelRequested,
)
from esper.events.envelope import Event
from esper.urza.blueprint import registration

Request = tuple[str | int | tuple[int, ...], ...]
"""Blueprint, kind, dims and seed, and geometry and dtype where they are known: what a kernel was asked for."""


@dataclass(frozen=True, slots=True)
class Library:
    """Blueprints by id, compiled kernels and rejections by request, gates' judgements by event id."""

    blueprints: Mapping[str, BlueprintRegistered] = field(default_factory=dict)
    kernels: Mapping[Request, KernelCompiled] = field(default_factory=dict)
    rejections: Mapping[Request, KernelRejected] = field(default_factory=dict)
    evaluations: Mapping[UUID, KernelEvaluated] = field(default_factory=dict)

    def blueprint(self, blueprint_id: str) -> BlueprintRegistered:
        """The blueprint with that id; raises UsageError."""
        if blueprint_id not in self.blueprints:
            known = ", ".join(sorted(self.blueprints)) or "none"
            raise UsageError(f"there is no blueprint {blueprint_id}; there are {known}")
        return self.blueprints[blueprint_id]


def request_of(content: KernelRequested | KernelCompiled | KernelRejected) -> Request:
    """What ``content`` asks for or answers."""
    known = () if content.geometry is None or content.dtype is None else (content.geometry, content.dtype)
    return content.blueprint, content.kind, content.dims, content.seed, *known


def fold(library: Library, events: Iterable[Event]) -> Library:
    """``library`` after the asset ``events``. Of two answers to one thing the first stays, so doing it again,
    with all or some of them, changes nothing."""
    blueprints, kernels = dict(library.blueprints), dict(library.kernels)
    rejections, evaluations = dict(library.rejections), dict(library.evaluations)
    for event in events:
        match event.content:
            case BlueprintRegistered() as content:
                blueprints.setdefault(content.blueprint, content)
            case KernelCompiled() as content:
                kernels.setdefault(request_of(content), content)
            case KernelRejected() as content:
                rejections.setdefault(request_of(content), content)
            case KernelEvaluated() as content:
                evaluations.setdefault(event.envelope.id, content)
            case _:
                pass
    return Library(blueprints, kernels, rejections, evaluations)


def built_in() -> dict[str, BlueprintRegistered]:
    """The blueprints that come with Esper, by id, in the order of their names."""
    return {content.blueprint: content for content in _built_in()}


def register() -> list[BlueprintRegistered]:
    """The event contents that register the built-in blueprints."""
    return list(_built_in())


@cache
def _built_in() -> tuple[BlueprintRegistered, ...]:
    folder = files("esper.urza") / "blueprints"
    found: dict[tuple[str, int], BlueprintRegistered] = {}
    for name in sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".json")):
        try:
            content = registration((folder / name).read_text(encoding="utf-8"))
        except UsageError as error:
            raise UsageError(f"{name}: {error}") from error
        if found.setdefault((content.name, content.version), content) is not content:
            raise UsageError(f"{name}: there is a blueprint {content.name} of version {content.version} already")
    return tuple(found.values())
