"""Forks a child for each line of JSON on standard input, so that a test does not import torch for every kill.

A line is ``{"program": "moons", "arguments": [...], "output": PATH, "environment": {...}}``; the answer is the child's
process id.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import traceback

import torch

import esper.log.kafka.log
import esper.tolaria  # noqa: F401


def main() -> None:
    torch.set_num_threads(1)
    torch.optim.AdamW([torch.zeros(1)])  # the first optimiser imports the compiler: seconds
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            run(request)
        print(pid, flush=True)


def run(request: dict[str, object]) -> None:
    """The child: never returns."""
    output = os.open(str(request["output"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(request["environment"])  # type: ignore[arg-type]
    status = 1
    try:
        importlib.import_module(str(request["program"])).main(*request["arguments"])
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001  (a child reports whatever ended it)
        traceback.print_exc()
    finally:
        print(f"exit {status}", flush=True)
        os._exit(status)


if __name__ == "__main__":
    main()
