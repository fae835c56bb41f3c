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
    """Every module of ``package``, then every module that an entry point of ``group`` names, each in the order of
    their names. Raises UsageError for an entry point that cannot be loaded."""
    path = importlib.import_module(package).__path__
    names = sorted(module.name for module in pkgutil.iter_modules(path, f"{package}."))
    modules = [importlib.import_module(name) for name in names]
    for point in sorted(entry_points(group=group)):
        try:
            modules.append(point.load())
        except (ImportError, AttributeError) as error:
            of = point.dist.name if point.dist is not None else "an installed package"
            raise UsageError(
                f"{of}: its {group} {point.value} cannot be loaded: {error}; mend or uninstall it"
            ) from error
    return tuple(modules)


def unique(things: Iterable[Thing], key: Callable[[Thing], Key], what: str) -> dict[Key, Thing]:
    """``things`` by their keys. Raises UsageError when two have the same."""
    by_key: dict[Key, Thing] = {}
    for thing in things:
        if by_key.setdefault(key(thing), thing) is not thing:
            raise UsageError(f"there are two {what} called {key(thing)}: {by_key[key(thing)]} and {thing}; rename one")
    return by_key
