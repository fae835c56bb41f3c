"""What people say of a run, checked, and how commands change it."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from esper.errors import UsageError
from esper.events.runs import RunDescribed
from esper.events.signals import CommandIssued
from esper.tamiyo.run.about import canonical_params, described, digested, flat, named, noted, obeyed, tagged
from esper.tamiyo.run.state import RunState

RUN = RunState("a-run", name="wide", tags=("best", "old"), notes="first try")


def asked(command: str, value: str | None) -> CommandIssued:
    return CommandIssued(command=command, seed=None, issuer="me", nonce="1", reason="", value=value)


def test_a_name_is_one_printable_line_without_blanks_around_it() -> None:
    assert named("  wide net ") == "wide net"
    assert named("ü" * 200) == "ü" * 200


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\tb", "\x1b[1m", "a" * 201, 7, None])
def test_what_is_no_name_is_refused_and_shown_in_part(name: Any) -> None:
    with pytest.raises(UsageError) as raised:
        named(name)
    assert str(raised.value) == (
        f"{str(name)[:40]!r} is no name or tag; use up to 200 printable characters in one line"
    )


def test_tags_are_sorted_and_there_once() -> None:
    assert tagged(["b", " a", "b"]) == ("a", "b")
    assert len(tagged(map(str, range(100)))) == 100
    with pytest.raises(UsageError, match=r"^101 tags are too many; a run has 100 at most$"):
        tagged(map(str, range(101)))
    with pytest.raises(UsageError, match=r"^tags='best' is one text; give a list, such as tags=\['best'\]$"):
        tagged("best")


def test_notes_may_have_lines_and_tabs() -> None:
    assert noted("one\n\ttwo") == "one\n\ttwo"
    assert noted("a" * 10_000) == "a" * 10_000


@pytest.mark.parametrize("notes", ["a" * 10_001, "a\x00", "\x1b[1m", 7])
def test_what_are_no_notes_is_refused(notes: Any) -> None:
    with pytest.raises(UsageError, match=r"^notes are up to 10,000 printable characters; what was given is not$"):
        noted(notes)


class Colour(Enum):
    RED = 1


@pytest.mark.parametrize(
    ("params", "text"),
    [
        (None, None),
        ({}, "{}"),
        ({"b": 1, "a": [True, None, "x"]}, '{"a":[true,null,"x"],"b":1}'),
        ({"set": {"b", "a"}, "tuple": (1, 2.5)}, '{"set":["a","b"],"tuple":[1,2.5]}'),
        ({"np": np.float32(0.5), "count": np.int64(3)}, '{"count":3,"np":0.5}'),
        ({"path": Path("/x/y"), "enum": Colour.RED}, '{"enum":"Colour.RED","path":"/x/y"}'),
        (OrderedDict(a={1: "x"}), '{"a":{"1":"x"}}'),
        ({"loss": float("nan")}, '{"loss":"NaN"}'),
    ],
)
def test_params_are_canonical_json(params: Any, text: str | None) -> None:
    assert canonical_params(params) == text


def endless() -> dict[str, Any]:
    holds: dict[str, Any] = {}
    holds["itself"] = holds
    return holds


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ([1], "^params= takes values by name, such as "),
        ({1: 2}, "^params= takes values by name, such as "),
        (
            {"f": print},
            r"^params= cannot be kept as JSON \(builtin_function_or_method is none of these\); give",
        ),
        ({"x": np.zeros(2)}, r"^params= cannot be kept as JSON \(ndarray is none of these\)"),
        ({"set": {1, "a"}}, r"^params= cannot be kept as JSON \('<' not supported"),
        (endless(), r"^params= cannot be kept as JSON \(maximum recursion depth exceeded"),
        ({"x": "a" * 64_000}, r"^params= has 64,008 characters as JSON; 64,000 bytes are allowed$"),
    ],
)
def test_params_that_are_no_json_are_refused(params: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        canonical_params(params)


def test_files_are_kept_by_name_and_digest(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_bytes(b"1,2\n")
    [file] = digested({" train ": path})
    assert (file.name, file.sha256) == ("train", hashlib.sha256(b"1,2\n").hexdigest())
    with pytest.raises(UsageError) as raised:
        digested({"train": tmp_path / "gone"})
    assert str(raised.value) == f"data= names {tmp_path / 'gone'}, which cannot be read: No such file or directory"


@pytest.mark.parametrize(
    ("kind", "value", "changed"),
    [
        ("rename", " deep ", {"name": "deep"}),
        ("tag", "a", {"tags": ("a", "best", "old")}),
        ("tag", "best", {}),
        ("untag", " best ", {"tags": ("old",)}),
        ("untag", "gone", {}),
        ("note", "second", {"notes": "second"}),
        ("note", "", {"notes": None}),
        ("pause", "x", {}),
    ],
)
def test_a_command_changes_what_it_is_about_and_nothing_else(kind: str, value: str, changed: dict[str, Any]) -> None:
    before = RunDescribed(name="wide", tags=("best", "old"), notes="first try")
    assert described(RUN, kind, value) == replace(before, **changed)
    assert obeyed(RUN, asked(kind, value)) == replace(before, **changed)


@pytest.mark.parametrize("told", [asked("rename", "a\nb"), asked("rename", None), asked("tag", ""), None])
def test_a_value_that_cannot_be_taken_changes_nothing(told: CommandIssued | None) -> None:
    assert obeyed(RUN, told) == RunDescribed(name="wide", tags=("best", "old"), notes="first try")


def test_nested_values_have_dotted_names() -> None:
    assert flat('{"a": {"b": {"c": 1}, "d": [1, {"e": 2}]}, "f": null, "g": {}}') == {
        "a.b.c": 1,
        "a.d": [1, {"e": 2}],
        "f": None,
        "g": {},
    }
    assert flat("{}") == {}
