"""Record today's schemas as the newest versions in schemas/past, and a log that they wrote in tests/fixtures/logs.

Run it, by `make schemas`, whenever a schema was changed; commit what it writes. A version and a fixture that no
commit holds yet are written anew; those in commits are never touched.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from esper.events.encoding import evolution
from esper.events.encoding.schemas import schema_from_json

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT / "tests" / "fixtures" / "logs"


def committed(path: Path) -> str | None:
    """The file as the last commit has it."""
    command = ["git", "show", f"HEAD:{path.relative_to(ROOT)}"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return shown.stdout if shown.returncode == 0 else None


def record(name: str) -> bool:
    """Add today's version of a record type unless the last one recorded is the same; returns whether it did."""
    path, today = evolution.past_file(name), evolution.schema_named(name)
    before = committed(path) or ""
    versions = before.splitlines()
    new = not versions or not evolution.same(schema_from_json(versions[-1]), today)
    path.parent.mkdir(exist_ok=True)
    path.write_text(before + f"{today.json}\n" if new else before)
    return new


def main() -> None:
    recorded = [name for name in evolution.names() if record(name)]
    if not recorded:
        sys.stdout.write("schemas: none has changed since the last commit\n")
        return
    numbers = [int(path.stem) for path in FIXTURES.glob("*.jsonl") if committed(path) is not None]
    fixture = FIXTURES / f"{max(numbers, default=0) + 1}.jsonl"
    command = [sys.executable, str(ROOT / "tools" / "log_fixture.py"), str(fixture)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    sys.stdout.write(f"schemas: recorded {', '.join(recorded)}; their records are in {fixture.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
