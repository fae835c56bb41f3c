"""docs/tuning.md has a row for each finding that there is, and for no other."""

from __future__ import annotations

import re

from tests.integration.test_explain import PROVOKED
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "tuning.md"


def test_each_finding_has_a_row_and_a_run_that_provokes_it() -> None:
    rows = set(re.findall(r"^\| ([a-z -]+) \|", PAGE.read_text(), re.MULTILINE)) - {"finding"}
    assert rows == {*PROVOKED, "telemetry dropped", "threads fight"}
