"""Where things lie in this checkout."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ROOT / "tests" / "programs"
"""Programs that tests start as processes of their own."""
FIXTURES = ROOT / "tests" / "fixtures"
