"""docs/architecture.md names paths that exist, every package folder, and the layers that are a contract."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
NAMED = set(re.findall(r"`([\w.-]+/[\w./-]*|\w+\.\w+)`", PAGE))


def test_every_path_that_the_page_names_exists() -> None:
    paths = {name for name in NAMED if "/" in name or name.endswith((".py", ".toml"))}
    assert len(paths) > 50
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


def test_every_package_folder_is_named() -> None:
    found = {
        init.parent.relative_to(ROOT) for top in ("esper", "streams") for init in (ROOT / top).rglob("__init__.py")
    }
    named = {Path(name) for name in NAMED if name.endswith("/")}
    held_by_others = {Path("esper"), Path("esper/tamiyo")}  # whose parts are rows of their own
    assert found - named - held_by_others == set()


def test_the_drawing_has_the_layers_of_the_contract_in_their_order() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    drawing = PAGE.partition("```\n")[2].partition("```")[0]
    modules = [row.split(" : ") for row in layers if row != "esper.__main__"]  # `python -m esper`: the command line
    lines = [line for line in drawing.splitlines() if re.search(r"esper\.|streams", line)]
    assert len(lines) == len(modules)
    for line, row in zip(lines, modules, strict=True):
        assert all(module in line or module.removeprefix("esper.") in line for module in row), (line, row)
