"""What is found by itself: the modules of a package, and those that installed packages name as entry points."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from types import ModuleType
from typing import TypeVar

from esper.errors import UsageError

Key = TypeVar("Key")
Thing = TypeVar("Thing")


def found(package: str, group: str) -> tuple[ModuleType, ...]:
    """Every module of ``package``, then every one that an entry point of ``group`` names, in the order of their names.
    Raises UsageError for an entry point that cannot be loaded."""
    path = importlib.import_module(package).__path__
    names = sorted(module.name for module in pkgutil.iter_modules(path, f"{package}."))
    modules = [importlib.import_module(name) for name in names]
    for point in sorted(entry_points(group=group)):
        try:
            modules.append(point.load())
        except (ImportError, AttributeError) as error:
            raise UsageError(f"entry point {point.name} = {point.value} of {group} does not load: {error}") from error
    return tuple(modules)


def unique(things: Iterable[Thing], key: Callable[[Thing], Key], what: str) -> dict[Key, Thing]:
    """``things`` by their keys. Raises UsageError when two have the same."""
    by_key: dict[Key, Thing] = {}
    for thing in things:
        if by_key.setdefault(key(thing), thing) is not thing:
            raise UsageError(f"two {what} are called {key(thing)}: {by_key[key(thing)]} and {thing}; rename one")
    return by_key
