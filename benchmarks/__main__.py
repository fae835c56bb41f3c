"""``python -m benchmarks [--json PATH] [--size N] [NAME ...]``: one table for each benchmark.

By default all but those on Kafka and those of SQL, which take long. Each writes ``benchmarks/results/NAME.json``, or
all of them one document to PATH. Exits with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.report import as_json, print_table, write_json

NAMES = ("log", "dormant", "digest", "spine", "logging_metrics", "resume", "honesty")
ON_KAFKA = ("kafka", "training_on_kafka", "decisions")
ON_SQL = ("sink", "recording", "questions", "rebuild")
LONG = ("integrity",)
ALL = NAMES + ON_KAFKA + ON_SQL + LONG
SIZED = ("questions", "rebuild", "integrity")
"""Those that take ``--size``: rows of telemetry, events, bits."""
RESULTS = Path(__file__).parent / "results"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure what Esper costs.")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"which of {', '.join(NAMES)} (the default), {', '.join(ON_KAFKA + ON_SQL + LONG)}",
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write one document there, not one for each")
    parser.add_argument("--size", type=int, metavar="N", help=f"rows or events of {', '.join(SIZED)}, to try them")
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in ALL:
            parser.error(f"there is no benchmark {name!r}; there are {', '.join(ALL)}")
    logging.getLogger("esper").setLevel(logging.ERROR)
    documents = {}
    for name in arguments.names or NAMES:
        began = time.perf_counter()
        module = importlib.import_module(f"benchmarks.{name}")
        sized: dict[str, Any] = {} if arguments.size is None or name not in SIZED else {"size": arguments.size}
        figures = module.figures(**sized)
        print_table(f"{name}: {module.TITLE} ({time.perf_counter() - began:.0f} s)", figures)
        documents[name] = as_json(module.TITLE, figures)
        if arguments.json is None:
            write_json(RESULTS / f"{name}.json", documents[name])
    if arguments.json is not None:
        write_json(arguments.json, documents)
    missed = [
        f"{name}: {each['name']}" for name, of in documents.items() for each in of["figures"] if each["met"] is False
    ]
    for each in missed:
        print(f"missed: {each}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
