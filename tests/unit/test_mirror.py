"""Tests mirror the code: each module has the unit tests of its name, or a row that says which tests try it instead."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

from tests.support.paths import ROOT

UNIT = ROOT / "tests" / "unit"
ELSEWHERE: dict[str, str] = tomllib.loads((ROOT / "tests" / "elsewhere.toml").read_text())
APART = {"compose", "docs", "support"}
"""Folders of tests/unit that mirror no package: what they test lies beside the code."""


def only_says(path: Path) -> bool:
    """Whether a module holds nothing but its docstring."""
    body = ast.parse(path.read_text()).body
    return all(isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant) for each in body)


def modules(root: Path = ROOT) -> Iterator[Path]:
    """The modules under ``root`` that have something to test, as paths from there."""
    for top in ("esper", "streams"):
        for path in sorted((root / top).rglob("*.py")):
            if path.name != "__init__.py" or not only_says(path):
                yield path.relative_to(root)


def mirrored(module: Path) -> Path:
    """Where the unit tests of ``module`` lie, from tests/unit: those of a package beside those of its neighbours."""
    named = module.parent if module.name == "__init__.py" else module.with_suffix("")
    parent = named.parent.parts
    return Path(*parent[1:] if parent[:1] == ("esper",) else parent, f"test_{named.name}.py")


def test_a_modules_tests_lie_in_the_folder_of_its_package() -> None:
    assert mirrored(Path("esper/log/kafka/frames.py")) == Path("log/kafka/test_frames.py")
    assert mirrored(Path("esper/log/kafka/__init__.py")) == Path("log/test_kafka.py")
    assert mirrored(Path("esper/settings.py")) == Path("test_settings.py")
    assert mirrored(Path("esper/__init__.py")) == Path("test_esper.py")
    assert mirrored(Path("streams/app.py")) == Path("streams/test_app.py")
    assert mirrored(Path("streams/__init__.py")) == Path("test_streams.py")


def test_a_package_that_only_says_what_it_is_needs_no_tests(tmp_path: Path) -> None:
    (tmp_path / "esper" / "words").mkdir(parents=True)
    (tmp_path / "esper" / "__init__.py").write_text('"""One."""\n\nimport os\n')
    (tmp_path / "esper" / "words" / "__init__.py").write_text('"""Two."""\n')
    (tmp_path / "esper" / "words" / "empty.py").write_text("")
    assert list(modules(tmp_path)) == [Path("esper/__init__.py"), Path("esper/words/empty.py")]


def test_no_two_modules_share_a_file_of_tests() -> None:
    places = [mirrored(module) for module in modules()]
    assert sorted({place for place in places if places.count(place) > 1}) == []


def test_each_module_has_its_tests_or_a_row_that_names_them() -> None:
    missing = [str(module) for module in modules() if not (UNIT / mirrored(module)).is_file()]
    assert [module for module in missing if module not in ELSEWHERE] == []


def test_each_row_is_of_a_module_that_has_no_tests_of_its_own() -> None:
    missing = [str(module) for module in modules() if not (UNIT / mirrored(module)).is_file()]
    assert [module for module in ELSEWHERE if module not in missing] == []


def test_each_row_names_tests_that_are_there() -> None:
    named = {Path(tests) for tests in ELSEWHERE.values()}
    odd = [str(tests) for tests in named if tests.parts[0] != "tests" or not tests.name.startswith("test_")]
    assert odd + [str(tests) for tests in named if not (ROOT / tests).is_file()] == []


def test_rows_are_in_order() -> None:
    assert list(ELSEWHERE) == sorted(ELSEWHERE)


def test_each_folder_of_unit_tests_has_its_package() -> None:
    folders = {path.parent.relative_to(UNIT) for path in UNIT.rglob("test_*.py")} - {Path()}
    folders = {folder for folder in folders if folder.parts[0] not in APART}
    homeless = [folder for folder in folders if not (ROOT / "esper" / folder).is_dir() and folder.parts[0] != "streams"]
    homeless += [folder for folder in folders if folder.parts[0] == "streams" and not (ROOT / folder).is_dir()]
    assert sorted(homeless) == []
