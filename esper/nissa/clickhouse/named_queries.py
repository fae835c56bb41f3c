"""The questions that people have, as files of SQL.

A file's first line says what is asked; of the comment lines that follow at once, ``-- NAME=VALUE what it is`` gives a
parameter's default, quoted if it has blanks or is empty, and the others explain the answer.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from esper.errors import UsageError

_PARAMETER = re.compile(r"\{(\w+):([^}]+)\}")
_DEFAULT = re.compile(r"(\w+)=(?:'([^']*)'|(\S+))(?: .*)?")


@dataclass(frozen=True, slots=True)
class NamedQuery:
    """A question: its name, what is asked, what the answer means, its SQL; its parameters' types and the defaults of
    those that have one, by name."""

    name: str
    title: str
    about: str
    sql: str
    parameters: dict[str, str]
    defaults: dict[str, str]

    def filled(self, given: Mapping[str, str]) -> dict[str, str]:
        """A value for each parameter: the one given, else its default. Raises UsageError for one that has neither, or
        that the query does not have."""
        for name in given:
            if name not in self.parameters:
                has = f"it has {', '.join(self.parameters)}" if self.parameters else "it has none"
                raise UsageError(f"the query {self.name} has no parameter {name}; {has}")
        values = {**self.defaults, **given}
        missing = [f"--param {name}=..." for name in self.parameters if name not in values]
        if missing:
            raise UsageError(f"the query {self.name} needs {' '.join(missing)}")
        return values

    def described(self, parameter: str) -> str:
        """The parameter's name, with its default if that says anything."""
        default = self.defaults.get(parameter)
        return f"{parameter}={default}" if default else parameter


def all_named() -> list[NamedQuery]:
    """Every named query, by name."""
    found = [each for each in files("esper.nissa.queries").iterdir() if each.name.endswith(".sql")]
    return sorted((parsed(each.name, each.read_text("utf-8")) for each in found), key=lambda query: query.name)


def named(name: str) -> NamedQuery:
    """The query of this name; raises UsageError."""
    known = {query.name: query for query in all_named()}
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else "esper sql --named lists them"
        raise UsageError(f"there is no query named {name!r}; {hint}")
    return known[name]


def parsed(file: str, text: str) -> NamedQuery:
    """The query that the file ``file`` holds."""
    lines = text.splitlines()
    size = next((place for place, line in enumerate(lines) if not line.startswith("--")), len(lines))
    title, *more = [line.removeprefix("--").strip() for line in lines[:size]] or [""]
    defaults: dict[str, str] = {}
    about: list[str] = []
    for line in more:
        if default := _DEFAULT.fullmatch(line):
            name, quoted, plain = default.groups()
            defaults[name] = quoted or plain or ""
        else:
            about.append(line)
    sql = "\n".join(lines[size:]).strip()
    return NamedQuery(file.removesuffix(".sql"), title, " ".join(about), sql, dict(_PARAMETER.findall(sql)), defaults)
