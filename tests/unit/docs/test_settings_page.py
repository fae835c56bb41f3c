"""docs/settings.md is what tools/settings_page.py makes of the settings."""

from __future__ import annotations

import runpy

from esper.settings import option_paths
from tests.support.paths import ROOT

TOOL = runpy.run_path(str(ROOT / "tools" / "settings_page.py"))


def test_the_page_is_what_the_settings_say() -> None:
    assert (ROOT / "docs" / "settings.md").read_text("utf-8") == TOOL["page"](), "run python tools/settings_page.py"


def test_the_page_has_every_setting() -> None:
    assert all(f"| `{path}` | " in TOOL["page"]() for path in option_paths())
