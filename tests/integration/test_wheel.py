"""The wheel: what it puts where, and that it trains in an environment that has no source tree."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support.paths import PROGRAMS, ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = folder.glob("esper_training-*.whl")
    return wheel


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel alone; the dependencies are borrowed from the one that runs the tests."""
    folder = tmp_path_factory.mktemp("fresh") / "environment"
    venv.create(folder, with_pip=False, symlinks=True)
    install = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--python",
        folder / "bin/python",
        wheel,
    ]
    subprocess.run(install, check=True)
    # Path files of a borrowed folder are not read, so the source tree installed there stays invisible.
    (_packages(folder) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def test_the_wheel_holds_nothing_but_esper(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    (info,) = (top for top in tops if top.endswith(".dist-info"))
    assert tops == {"esper", "streams", info}
    folder = ROOT / "schemas"
    schemas = {f"esper/schemas/{path.relative_to(folder)}" for path in folder.rglob("*.*")}
    assert schemas <= set(names)
    rest = {path.relative_to(ROOT) for path in (ROOT / "esper").rglob("*.*") if path.is_file()}
    data = {str(path) for path in rest if path.suffix not in (".py", ".pyc")}
    assert {Path(path).suffix for path in data} >= {".json", ".sql", ".j2", ".css", ".js", ".md"}
    assert data <= set(names)


def test_nothing_else_is_installed_at_the_top(environment):
    there = {path.name for path in _packages(environment).iterdir() if path.name != "borrowed.pth"}
    assert {name for name in there if not name.endswith(".dist-info") and not name.startswith("_virtualenv")} == {
        "esper",
        "streams",
    }


def test_the_installed_wheel_trains_and_tells(environment, tmp_path):
    def esper(*words: str) -> str:
        command = [environment / "bin" / "esper", *words, "--json"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    where = [environment / "bin" / "python", "-c", "import esper; print(esper.__file__)"]
    printed = subprocess.run(where, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert Path(printed.strip()).is_relative_to(environment)
    run = json.loads(esper("train", "--task", "digits", "--steps", "80", "--run-id", "r"))
    assert (run["status"], run["steps"]) == ("completed", 80)
    assert json.loads(esper("verify", "r"))["ok"]


@pytest.fixture(scope="module")
def light(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with what ``pip install esper-training`` brings, and nothing borrowed."""
    folder = tmp_path_factory.mktemp("light") / "environment"
    uv = [sys.executable, "-m", "uv", "--quiet"]
    subprocess.run([*uv, "venv", "--python", sys.executable, folder], check=True)
    install = [*uv, "pip", "install", "--python", folder / "bin/python", "--constraint", ROOT / "constraints.txt"]
    subprocess.run([*install, wheel], check=True)
    return folder


@pytest.mark.slow
def test_without_extras_a_run_is_trained_killed_resumed_shown_and_verified(light: Path, tmp_path: Path) -> None:
    assert not {path.name for path in _packages(light).iterdir()} & {"chdb", "confluent_kafka", "sklearn", "faust"}
    program = [light / "bin" / "python", PROGRAMS / "light.py", tmp_path / "home"]
    assert subprocess.run(program, cwd=tmp_path, check=False).returncode == -signal.SIGKILL
    assert subprocess.run(program, cwd=tmp_path, check=False).returncode == 0
    shown = _light(light, tmp_path, "show", "run", "--json")
    assert shown.returncode == 0, shown.stderr
    state = json.loads(shown.stdout)
    assert (state["status"], state["steps"], state["state"]["writer_epoch"]) == ("completed", 60, 2)
    assert [seed["stage"] for seed in state["seeds"]] == ["TRAINING"]
    assert _light(light, tmp_path, "verify", "run").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (("sql", "SELECT 1"), "sql"),
        (("report", "run", "--out", "page.html"), "sql"),
        (("runs", "--log", "kafka://127.0.0.1:1"), "kafka"),
        (("worker", "--log", "kafka://127.0.0.1:1"), "workers"),
        (("train", "--task", "digits"), "digits"),
    ],
)
def test_a_command_whose_extra_is_missing_says_how_to_install_it(
    words: tuple[str, ...], extra: str, light: Path, tmp_path: Path
) -> None:
    done = _light(light, tmp_path, *words)
    assert done.returncode == 1
    assert done.stderr.endswith(f"; pip install 'esper-training[{extra}]'\n")
    assert done.stderr.count("\n") == 1


def _light(environment: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [environment / "bin" / "esper", *words, *(() if "worker" in words else ("--home", "home"))]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def _packages(environment: Path) -> Path:
    (folder,) = environment.glob("lib/python*/site-packages")
    return folder
