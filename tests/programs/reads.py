"""Runs commands in one process: ``reads.py HOME OUT`` prints, as JSON, the exit code and the words of each."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stderr
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path

import torch

import esper
from esper.cli.main import main

READING = (
    "runs",
    "runs --json",
    "show done",
    "show done --step 110 --json",
    "events done --json",
    "events done --follow",
    "why done {seed}",
    "explain done",
    "compare done other",
    "verify done",
    "dlq list",
    "schemas check",
    "weights done --out {out}/done.safetensors",
    "copy {log} sqlite:///{out}/copy.db",
    "sql --named seed_survival --param run=done --format csv",
    "report done other --out {out}/report.html",
)
WRITING = (
    "train --task digits --run-id fourth",
    "resume unfinished",
    "tag done best",
    "rename done better",
    "note done well",
    "pause unfinished",
    "stop unfinished",
    "seed cull unfinished {seed}",
    "copy --run third {other} {log}",
    "sql --write CREATE_TABLE",
    "analytics check",
    "analytics rebuild",
    "sink",
)


def said(home: Path, command: str, **words: object) -> tuple[int, str, str]:
    out, err = TextIOWrapper(BytesIO(), "utf-8"), StringIO()
    before, sys.stdout = sys.stdout, out
    try:
        with redirect_stderr(err):
            code = main([*command.format(**words).split(), "--home", str(home)])
        out.flush()
        return code, out.buffer.getvalue().decode(), err.getvalue()  # type: ignore[attr-defined]
    finally:
        sys.stdout = before


def loaded(home: Path) -> float:
    """What the weights of the run come to."""
    from esper.tasks import load_task

    model = load_task("digits").model(0)
    esper.load("done", model, home=home)
    return float(
        sum(each.detach().double().abs().sum() for each in model.state_dict().values() if torch.is_tensor(each))
    )


def read(home: Path, out: Path, other: str) -> None:
    with esper.connect(home) as connection:
        run = connection.run("done")
        seed, final = run.seeds[0].name, run.state().digest_of_state()
    words = {"seed": seed, "out": out, "log": f"sqlite:///{home}/log.db", "other": other}
    told = {command: said(home, command, **words) for command in READING}
    told["connect"], told["load"] = (0, final, ""), (0, str(loaded(home)), "")
    if other:
        told |= {command: said(home, command, **words) for command in WRITING}
    print(json.dumps(told))


if __name__ == "__main__":
    read(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
