"""Counts what makes a house easy or hard to find one's way in: ``python tools/house.py [CHECKOUT]``.

Modules per folder, import circles between neighbours, public definitions without a docstring, modules without a test
file of their name, lines of the README, hard dependencies, and how long ``import esper`` and ``esper --help`` take (the
least of five, in this environment).
"""

from __future__ import annotations

import ast
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("esper", "streams")


def modules(root: Path) -> list[Path]:
    """The modules of the packages, relative to ``root``, but for ``__init__`` files."""
    found = (path.relative_to(root) for name in PACKAGES for path in (root / name).rglob("*.py"))
    return sorted(path for path in found if path.name != "__init__.py")


def imports(root: Path, path: Path) -> set[str]:
    """The modules that a module names in imports, those for type checkers and those in functions included."""
    found = set()
    for node in ast.walk(ast.parse((root / path).read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def circles(root: Path) -> list[set[str]]:
    """Sets of neighbours, of one folder, that import each other, near or far."""
    names = {".".join(path.with_suffix("").parts): path for path in modules(root)}
    arrows = {name: imports(root, path) & names.keys() for name, path in names.items()}
    found = []
    for folder in {name.rpartition(".")[0] for name in names} | set(PACKAGES):
        below: dict[str, set[str]] = {}
        for name, targets in arrows.items():
            here = _child(folder, name)
            if here:
                below.setdefault(here, set()).update(there for to in targets if (there := _child(folder, to)) != here)
        found += _strong({name: {to for to in targets if to} for name, targets in below.items()})
    return found


def _child(folder: str, name: str) -> str:
    """The part of ``folder`` in which the module lies; empty where it lies elsewhere."""
    return name.removeprefix(f"{folder}.").split(".")[0] if name.startswith(f"{folder}.") else ""


def _strong(arrows: dict[str, set[str]]) -> list[set[str]]:
    """Strongly connected components of more than one member."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        left = [start]
        while left:
            new = arrows.get(left.pop(), set()) - seen
            seen |= new
            left += new
        return seen

    reach = {name: reached(name) for name in arrows}
    found: list[set[str]] = []
    for name in arrows:
        circle = {other for other in reach[name] if name in reach.get(other, set())}
        if len(circle) > 1 and circle not in found:
            found.append(circle)
    return found


def public(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """Each public class, function and method, and whether it has a docstring."""
    for node in ast.iter_child_nodes(tree):
        kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, kinds) and not node.name.startswith("_"):
            yield node.name, ast.get_docstring(node) is not None
            if isinstance(node, ast.ClassDef):
                yield from public(node)


def seconds(*command: str) -> float:
    """The least of five."""
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - began)
    return min(taken)


def main() -> None:
    """Print the counts."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    paths = modules(root)
    folders = Counter(path.parent for path in paths)
    largest = folders.most_common(1)[0]
    told = [has for path in paths for _, has in public(ast.parse((root / path).read_text("utf-8")))]
    tests = {path.name for path in (root / "tests").rglob("test_*.py")}
    own = sum(f"test_{path.name}" in tests for path in paths)
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    lines = len((root / "README.md").read_text("utf-8").splitlines())
    print(f"modules: {len(paths)} in {len(folders)} folders, at most {largest[1]} in one ({largest[0]})")
    print(f"longest module: {max(len((root / path).read_text('utf-8').splitlines()) for path in paths)} lines")
    print(f"circles: {[sorted(circle) for circle in circles(root)] or 'none'}")
    print(f"public definitions without a docstring: {told.count(False)} of {len(told)}")
    print(f"modules with a test file of their name: {own} of {len(paths)}")
    print(f"README: {lines} lines; hard dependencies: {len(project['dependencies'])}")
    bare, esper = seconds(sys.executable, "-c", ""), str(Path(sys.executable).with_name("esper"))
    print(f"import esper: {seconds(sys.executable, '-c', 'import esper') - bare:.2f} s more than Python itself")
    print(f"esper --help: {seconds(esper, '--help'):.2f} s")


if __name__ == "__main__":
    main()
