"""Logs altered on purpose: every field of an event that the rules decide, in turn, by its type."""

from __future__ import annotations

import math
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass, replace
from functools import cache
from types import NoneType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints
from uuid import UUID

from esper.events import Event, runs
from esper.kasmina.seed.stages import Stage
from esper.tamiyo.proof.verify import transactions
from esper.tamiyo.rules.inputs import INPUTS, SOMETIMES

STAGES = tuple(stage.value for stage in Stage)
NAMED = {  # what else a field may say
    "from_stage": STAGES,
    "to_stage": STAGES,
    "cause": ("decision", "gate", "command", "rollback"),
    "gate": ("birth", "finite", "governor", "verdict", "blend", "audit"),
    "action": ("wait", "germinate"),
}
SIMPLE: dict[type, Any] = {int: 7, float: 0.5, bool: True, str: "other", bytes: b"\0", UUID: UUID(int=7)}


class Mutation(NamedTuple):
    """The log up to the end of a transaction, with another ``field`` in the event at ``place`` (from 0)."""

    place: int
    field: str
    events: list[Event]

    def __str__(self) -> str:
        return f"event {self.place + 1}, {self.field}: {self.events[self.place].content}"


def mutations(events: list[Event], known: AbstractSet[Any] = frozenset()) -> Iterator[Mutation]:
    """Each field that the rules decide, altered in turn, in the first event of each kind that is not ``known``."""
    seen = set(known)
    for place, end in ends(events):
        content = events[place].content
        if kind_of(content) in seen:
            continue
        seen.add(kind_of(content))
        for field, other in alterations(content):
            if is_decided(content, field):
                altered = replace(events[place], content=other)
                yield Mutation(place, field, [*events[:place], altered, *events[place + 1 : end]])


def kinds(events: list[Event]) -> set[Any]:
    return {kind_of(event.content) for event in events}


def ends(events: list[Event]) -> Iterator[tuple[int, int]]:
    """Each place, and where its transaction ends."""
    begin = 0
    for transaction in transactions(events):
        end = begin + len(transaction)
        yield from ((place, end) for place in range(begin, end))
        begin = end


def kind_of(content: Any) -> tuple[Any, ...]:
    """What tells events of one class apart: by which rule they come."""
    match content:
        case runs.SeedTransitioned():
            evidence = content.evidence
            missing = evidence is not None and evidence.bound is None
            return type(content), content.from_stage, content.to_stage, content.gate, content.cause, missing
        case runs.DecisionMade():
            return type(content), content.action
        case runs.DecisionRejected():
            return type(content), content.reason, content.issuer is None, content.detail.split()[0]
        case runs.CommandAccepted():
            return type(content), content.kind
        case runs.CommandRejected():
            return type(content), content.kind, content.reason.split()[0]
        case runs.BoundaryReached():
            return type(content), len(content.trials), bool(content.failed)
        case runs.RolledBack():
            return type(content), bool(content.removed)
        case runs.RunPaused() | runs.CheckpointCommitted():
            return type(content), content.reason
    return (type(content),)


def is_decided(content: Any, field: str) -> bool:
    """Whether the rules decide a dotted field of this event: neither it nor what it is part of is an input."""
    parts = field.split(".")
    inputs = {"measured", *INPUTS.get(type(content), {}), *given(content)}
    return not any(".".join(parts[:count]) in inputs for count in range(1, len(parts) + 1))


def given(content: Any) -> set[str]:
    """Fields that are an input in this event, though not in each of its class."""
    match content:
        case runs.SeedTransitioned(from_stage=Stage.DORMANT):
            return {"kernel"}
        case runs.SeedTransitioned(gate="birth"):
            return {"evidence.gradient_norm"}
        case runs.DecisionMade(issuer=str()):
            return {"issuer"}
        case runs.DecisionRejected(reason="kernel"):
            return {"detail"}
        case runs.DecisionRejected(issuer=str(), detail=detail):
            computed = detail.startswith(("the decision about", "step "))
            return {"site", "issuer"} if computed else {"site", "issuer", "detail"}
        case runs.CommandRejected(reason=reason) if reason.startswith("its id is not"):
            return {"reason"}
        case runs.RunResumed() | runs.CheckpointCommitted() | runs.CheckpointRetired():
            return set(SOMETIMES[type(content)])
    return set()


def alterations(content: Any) -> Iterator[tuple[str, Any]]:
    """(dotted field, the content with another value there), for each field and each part of one."""
    hints = _hints(type(content))
    for field in fields(content):
        for within, other in _others(getattr(content, field.name), hints[field.name], field.name):
            yield field.name + within, replace(content, **{field.name: other})


def _others(value: Any, hint: Any, name: str) -> Iterator[tuple[str, Any]]:
    """(the part that is altered, another value)."""
    given = [each for each in get_args(hint) if each is not NoneType]
    if NoneType in get_args(hint):
        hint = given[0]
        yield "", None if value is not None else example(hint)
        if value is None:
            return
    if is_dataclass(value):
        yield from ((f".{within}", other) for within, other in alterations(value))
    elif isinstance(value, tuple):
        yield "", value[:-1] if value else (example(get_args(hint)[0]),)
        if value:
            yield "", (*value, value[-1])
        if len(value) > 1:
            yield "", value[::-1]
        for place in {0, len(value) - 1} if value else ():
            for within, other in _others(value[place], get_args(hint)[0], name):
                yield within, (*value[:place], other, *value[place + 1 :])
    elif isinstance(value, dict):
        yield "", {**value, "other": example(get_args(hint)[1])}
        for key, old in value.items():
            yield "", {each: v for each, v in value.items() if each != key}
            yield from ((within, {**value, key: other}) for within, other in _others(old, get_args(hint)[1], name))
    else:
        yield from (("", other) for other in _other_scalars(value, name) if other != value)


def _other_scalars(value: Any, name: str) -> Iterator[Any]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield value + 1
        yield value - 1
    elif isinstance(value, float):
        yield value + 0.5
        yield value * (1 + 1e-6) if name == "z" else math.nextafter(value, math.inf)  # z may differ between C libraries
    elif isinstance(value, str):
        yield f"{value}x"
        yield from NAMED.get(name, ())
    elif isinstance(value, bytes):
        yield value + b"\0"
    elif isinstance(value, UUID):
        yield UUID(int=value.int ^ 1)
    else:
        raise TypeError(f"no other value of {name}: {value!r}")


def example(hint: Any) -> Any:
    """A value of an annotated type."""
    if hint in SIMPLE:
        return SIMPLE[hint]
    if is_dataclass(hint):
        hints = _hints(hint)  # type: ignore[arg-type]
        return hint(**{each.name: example(hints[each.name]) for each in fields(hint)})
    if get_origin(hint) is tuple:
        return ()
    if get_origin(hint) is dict:
        return {}
    return None  # of an optional


def leaves(kind: type) -> Iterator[str]:
    """Every dotted field of an event class, and of its parts; ``measured`` left out."""
    for name, hint in _hints(kind).items():
        if name == "measured":
            continue
        yield name
        inner = next((each for each in (hint, *_arguments(hint)) if is_dataclass(each)), None)
        if inner is not None:
            yield from (f"{name}.{each}" for each in leaves(inner))  # type: ignore[arg-type]


def _arguments(hint: Any) -> Iterator[Any]:
    for each in get_args(hint):
        yield each
        yield from _arguments(each)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)
