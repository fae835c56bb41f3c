"""What is found by itself: modules of a package, and entry points of what users install."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from esper.errors import UsageError
from esper.plugins import Plugins
from tests.support.paths import ROOT


@dataclass(frozen=True)
class Fruit:
    name: str


ITEM = "from tests.unit.test_plugins import Fruit\nFRUIT = Fruit({name!r})\n"


@pytest.fixture
def basket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package for a registry, of a name that no other test has."""
    name = f"basket_{tmp_path.name}"
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "tests.unit.test_plugins", sys.modules[__name__])
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    return tmp_path / name


def fruits(basket: Path) -> Plugins[Fruit]:
    return Plugins("fruit", Fruit, basket.name, "FRUIT", f"{basket.name}.more")


def grow(basket: Path, module: str, name: str) -> None:
    (basket / f"{module}.py").write_text(ITEM.format(name=name))


def install(basket: Path, module: str, text: str, attribute: str = "FRUIT") -> None:
    """A package of a user, with an entry point."""
    module = f"{basket.name}_{module}"
    (basket.parent / f"{module}.py").write_text(text)
    info = basket.parent / f"{module}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{basket.name}.more]\nmine = {module}:{attribute}\n")


def test_every_module_of_the_package_adds_its_own_and_those_with_an_underscore_are_left_out(basket: Path) -> None:
    grow(basket, "p", "pear")
    grow(basket, "a", "apple")
    (basket / "_helper.py").write_text("raise RuntimeError('imported')")
    assert [each.name for each in fruits(basket)] == ["apple", "pear"]
    assert fruits(basket)["pear"] == Fruit("pear")


def test_an_unknown_name_is_an_error_that_says_what_there_is(basket: Path) -> None:
    grow(basket, "p", "pear")
    grow(basket, "a", "apple")
    with pytest.raises(UsageError, match=r"^there is no fruit 'plum'; there are apple, pear$"):
        fruits(basket)["plum"]


def test_an_installed_package_adds_its_own(basket: Path) -> None:
    grow(basket, "p", "pear")
    install(basket, "users", ITEM.format(name="fig"))
    assert [each.name for each in fruits(basket)] == ["fig", "pear"]


def test_two_of_one_name_are_refused_and_both_are_named(basket: Path) -> None:
    grow(basket, "p", "pear")
    install(basket, "users", ITEM.format(name="pear"))
    with pytest.raises(UsageError, match=r"two of the fruit 'pear': basket_\w+\.p:FRUIT and basket_\w+_users:FRUIT"):
        fruits(basket)["pear"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import that_is_not_there", "cannot be loaded from .*_users:FRUIT: No module named 'that_is_not_there'"),
        ("PLUM = 1", "cannot be loaded from .*_users:FRUIT: .* no attribute 'FRUIT'"),
        ("FRUIT = 'plum'", "_users:FRUIT is no fruit but a str"),
    ],
)
def test_an_installed_package_that_cannot_be_used_is_named(basket: Path, text: str, words: str) -> None:
    install(basket, "users", text)
    with pytest.raises(UsageError, match=words):
        list(fruits(basket))


def test_nothing_is_imported_before_something_is_asked_for(basket: Path) -> None:
    (basket / "broken.py").write_text("raise RuntimeError('imported')")
    fruits(basket)


def test_kinds_and_operators_are_found_without_torch() -> None:
    code = (
        "import sys; from esper.kasmina.kinds import KINDS; from esper.urza.operators import OPERATORS; "
        "assert len(KINDS.all) > 1 and len(OPERATORS.all) > 2; sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
