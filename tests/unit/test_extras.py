"""Extras: what is missing is named with the line that installs it."""

from __future__ import annotations

import sys
import tomllib
from importlib.util import find_spec

import pytest

from esper.errors import ExtraMissing
from esper.extras import EXTRAS, WHAT, is_there, missing, naming_extras, require
from tests.support.paths import ROOT


def test_the_extras_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert EXTRAS.keys() | {"all", "dev"} == project["optional-dependencies"].keys()
    assert EXTRAS.keys() == WHAT.keys()
    assert project["optional-dependencies"]["all"] == [f"esper-training[{','.join(EXTRAS)}]"]


@pytest.mark.parametrize("extra", EXTRAS)
def test_each_package_that_an_extra_brings_is_one_that_is_there(extra: str) -> None:
    assert [name for name in EXTRAS[extra] if name not in sys.modules and find_spec(name) is None] == []
    assert is_there(extra)
    require(extra)


def test_a_package_that_is_missing_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "chdb", None)  # as if it could not be found
    with (
        pytest.raises(
            ExtraMissing,
            match=r"^questions to ClickHouse, and reports: chdb is not installed; "
            r"pip install 'esper-training\[sql\]'$",
        ),
        naming_extras(),
    ):
        import chdb  # noqa: F401


def test_what_belongs_to_no_extra_is_left_as_it_is() -> None:
    assert missing(ModuleNotFoundError("No module named 'numpy'", name="numpy")) is None
    with pytest.raises(ModuleNotFoundError, match="no_such_package"), naming_extras():
        import no_such_package  # noqa: F401
