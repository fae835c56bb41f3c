"""Which package may import which: arrows run from the command line down to the events, never up."""

from __future__ import annotations

import ast
from pathlib import Path

ESPER = Path(__file__).resolve().parents[2] / "esper"
LAYERS = (
    ("version", "errors", "locks", "private", "hosts", "backoff", "connections", "registry", "settings"),
    ("events", "artifacts", "dev"),
    ("log",),
    ("kasmina", "urza", "tezzeret", "tamiyo", "tasks"),
    ("nissa", "reading", "integrity"),
    ("tolaria", "integrations", "records"),
    ("cli",),
    ("__init__", "__main__"),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imported(tree: ast.AST) -> set[str]:
    """The modules that are named by imports, those for type checkers and those in functions included."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def arrows() -> set[tuple[str, str, str]]:
    """Module, its package and a package of Esper's that it imports; ``esper.start`` is the package's root."""
    found = set()
    for path in ESPER.rglob("*.py"):
        within = path.relative_to(ESPER)
        package = within.parts[0].removesuffix(".py")
        for name in imported(ast.parse(path.read_text("utf-8"))):
            head, _, rest = name.partition(".")
            if head in ("esper", "streams"):
                target = rest.split(".")[0] if head == "esper" else head
                found.add((str(within), package, target if target in LEVEL or head == "streams" else "__init__"))
    return found


def test_no_package_imports_one_above_it() -> None:
    found = arrows()
    assert {package for _, package, _ in found} <= LEVEL.keys()
    upward = {(module, to) for module, package, to in found if to == "streams" or LEVEL[to] > LEVEL[package]}
    assert upward == {("cli/train.py", "__init__")}  # `esper train` is a program like a user's
