"""Registries that fill themselves (kinds of site, operators, policies): one object in each module of a package, and in
packages that users install."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import entry_points
from typing import Generic, Protocol, TypeVar

from esper.errors import UsageError


class Named(Protocol):
    """Anything with a name."""

    @property
    def name(self) -> str:
        """What it is found by, if ``Plugins`` is given no other ``key``."""


T = TypeVar("T", bound=Named)


class Plugins(Generic[T]):
    """The objects of type ``of``, by name: ``attribute`` of every module in ``package`` whose name does not begin with
    an underscore, and what the entry points of ``group`` name (``[project.entry-points."GROUP"]`` of any installed
    package). ``what`` is the word for one of them in errors, ``key`` what it is called by instead of its name alone.
    Nothing is imported before something is asked for."""

    def __init__(
        self,
        what: str,
        of: type[T],
        package: str,
        attribute: str,
        group: str,
        key: Callable[[T], str] = lambda each: each.name,
    ) -> None:
        self.what, self._of, self._key = what, of, key
        self._package, self._attribute, self._group = package, attribute, group

    def __getitem__(self, name: str) -> T:
        """The one of that name; raises UsageError saying what there is."""
        if name not in self.all:
            raise UsageError(f"there is no {self.what} {name!r}; there are {', '.join(self.all) or 'none'}")
        return self.all[name]

    def __iter__(self) -> Iterator[T]:
        return iter(self.all.values())

    @cached_property
    def all(self) -> Mapping[str, T]:
        """All of them by name, sorted. Raises UsageError for two of one name, and for a package of a user that cannot
        be used."""
        found: dict[str, tuple[str, T]] = {}
        for place, each in [*self._built_in(), *self._of_users()]:
            if not isinstance(each, self._of):
                what = "missing" if each is None else f"a {type(each).__name__}"
                raise UsageError(f"{place} is no {self.what} but {what}")
            name = self._key(each)
            if name in found:
                raise UsageError(f"there are two of the {self.what} {name!r}: {found[name][0]} and {place}; rename one")
            found[name] = place, each
        return {name: found[name][1] for name in sorted(found)}

    def _built_in(self) -> Iterator[tuple[str, object]]:
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__, f"{self._package}."):
            if not module.name.rpartition(".")[2].startswith("_"):
                found = importlib.import_module(module.name)
                yield f"{module.name}:{self._attribute}", getattr(found, self._attribute, None)

    def _of_users(self) -> Iterator[tuple[str, object]]:
        for point in entry_points(group=self._group):
            try:
                yield point.value, point.load()
            except (ImportError, AttributeError, SyntaxError, NameError, TypeError, ValueError) as error:
                raise UsageError(
                    f"the {self.what} {point.name!r} of an installed package cannot be loaded from {point.value}: "
                    f"{error}; mend or uninstall it"
                ) from error
