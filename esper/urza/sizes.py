"""Sizes as data: a number, a name, or ``{"min": [8, {"div": ["in", 2]}]}``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Annotated, Literal

from pydantic import Field, StringConstraints
from typing_extensions import TypeAliasType

from esper.errors import UsageError

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
Number = Annotated[int, Field(strict=True, ge=1, le=2**31)]
Operator = Literal["min", "max", "mul", "div"]
Size = TypeAliasType("Size", "Number | Name | dict[Operator, Annotated[list[Size], Field(min_length=2, max_length=8)]]")

_LARGEST = 2**40
_OPERATORS: dict[Operator, Callable[[int, int], int]] = {
    "min": min,
    "max": max,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a // b if b else 0,
}


def value_of(size: Size, names: Mapping[str, int]) -> int:
    """The number that ``size`` stands for where ``names`` have these values; division rounds down.

    Raises UsageError for an unknown name and for what is no size at all.
    """
    if isinstance(size, int):
        return size
    if isinstance(size, str):
        if size not in names:
            raise UsageError(f"the size {size!r} is not defined; there are {', '.join(sorted(names))}")
        return names[size]
    if len(size) != 1:
        raise UsageError(f"a size has one operator, not {len(size)}; nest them")
    [(operator, parts)] = size.items()
    number = reduce(_OPERATORS[operator], (value_of(part, names) for part in parts))
    if number > _LARGEST:
        raise UsageError(f"a size of {number} is too large; the largest is {_LARGEST}")
    return number


def positive(what: str, size: Size, names: Mapping[str, int]) -> int:
    """The number that ``size`` stands for; raises UsageError, naming it as ``what``, if it is not positive."""
    number = value_of(size, names)
    if number < 1:
        raise UsageError(f"{what} is {number}; it must be at least 1")
    return number
