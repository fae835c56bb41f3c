"""Kills a training with SIGKILL in the middle, resumes it, and compares its weights with those of one that was not.

    python examples/killed_and_resumed.py [HOME]

The training is that of own_loop.py, in a process of its own: this program, with the words HOME train RUN or
HOME resume RUN.
"""

from __future__ import annotations

import signal
import subprocess
import sys

import torch

import esper
from own_loop import host, train

KILLED_AFTER = "epoch 14:"  # while a seed trains in isolation


def started(home: str, what: str, run_id: str) -> subprocess.Popen[str]:
    """The training as another process."""
    return subprocess.Popen([sys.executable, __file__, home, what, run_id], stdout=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str]) -> None:
    process.communicate()
    if process.returncode:
        raise SystemExit("the training failed")


def killed(process: subprocess.Popen[str]) -> None:
    """Kill the training once it has come to the middle; it has no time to say or to write anything more."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(KILLED_AFTER):
            process.send_signal(signal.SIGKILL)
            break
    process.communicate()
    print(f"killed after {line.strip()}; its exit code is {process.returncode}")


def main(home: str) -> None:
    whole = started(home, "train", "whole")
    killed(started(home, "train", "torn"))
    finished(started(home, "resume", "torn"))
    finished(whole)
    with esper.connect(home) as log:
        for run_id in ("whole", "torn"):
            run = log.run(run_id)
            print(f"run {run_id}: {run.status}, resumed {len(list(run.events('RunResumed')))} times")
    weights = [esper.load(run_id, host(), home=home).state_dict() for run_id in ("whole", "torn")]
    assert weights[0].keys() == weights[1].keys()  # the same seeds grew
    equal = all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    print(f"{len(weights[0])} tensors, {'all equal, bit for bit' if equal else 'NOT equal'}")
    raise SystemExit(not equal)


if __name__ == "__main__":
    where, *words = sys.argv[1:] or [".esper"]
    if words:
        train(where, words[1], resume=words[0] == "resume")
    else:
        main(where)
