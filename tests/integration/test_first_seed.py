"""docs/first-seed.md, typed as it stands: own model → why nothing grew → the advice followed → a seed kept → loaded."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "first-seed.md"
BLOCK = re.compile(r"(?:`(?P<name>\w+\.py)`[^`]*)?```(?P<kind>python)?\n(?P<text>.*?)```", re.DOTALL)


def typed(folder: Path, *words: str) -> str:
    """What a command prints, typed in ``folder`` with the environment's programs first."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "COLUMNS": "200"}
    environment.pop("ESPER_HOME", None)
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_page_is_typed_and_a_seed_is_kept_and_loaded(tmp_path: Path) -> None:
    said: dict[str, str] = {}
    for number, block in enumerate(BLOCK.finditer(PAGE.read_text())):
        if block["kind"]:
            name = block["name"] or f"block{number}.py"
            (tmp_path / name).write_text(block["text"])
            if block["name"] is None:
                said["file"] = typed(tmp_path, "python", name)
        else:
            for command in re.findall(r"^\$ (.*)$", block["text"], re.MULTILINE):
                said[command] = typed(tmp_path, *command.split())
    first, second = said["python train.py first 150"], said["python train.py second 690 gate.folds=3"]
    assert "FOSSILISED" not in first
    assert "run first kept no seed: too few gate examples" in first
    assert re.search(r"give gate_data of some \d+ examples, with gate.folds=3", said["esper explain first"])
    assert "'FOSSILISED': " in second
    assert re.search(r"settings gate.folds +10 +3", said["esper compare first second"])
    shown = typed(tmp_path, "esper", "show", "second", "--json")
    last = re.search(r"last (0\.\d+)", said["python evaluate.py"])
    assert last is not None
    assert f'"accuracy": {last[1]}'[:-1] in shown
    assert said["file"] == f"file {last[1]}\n"
