"""The page: from stories to one file of HTML that asks for nothing else.

Whatever a run says goes through the template's escaping, or into the page as data, where nothing can end the script
element; and the page's own policy lets no script run but ours, and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from esper.nissa.report.comparison import compare
from esper.nissa.report.curves import together
from esper.nissa.report.gather import Gathered
from esper.nissa.report.lifelines import STAGES
from esper.nissa.report.story import story
from esper.nissa.report.words import count, moment
from esper.tamiyo.advice import Finding
from esper.version import __version__


def page(runs: Mapping[str, Gathered], made: datetime, advice: Mapping[str, Sequence[Finding]] | None = None) -> str:
    """The report on ``runs``, by id, as it was made at ``made`` (UTC); ``advice`` is what their logs say to do."""
    given = advice or {}
    stories = [story(run_id, found, given.get(run_id, ())) for run_id, found in runs.items()]
    several = len(stories) > 1
    charts = together(runs, [each.label for each in stories]) if several else []
    data = {
        "runs": [each.curves for each in stories],
        "together": charts,
        "end": max(each.steps for each in stories),
    }
    scripts = [_own("vendor/uPlot.iife.min.js"), _own("templates/report.js")]
    environment = Environment(
        loader=PackageLoader("esper.nissa.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = count
    return environment.get_template("report.html.j2").render(
        title=", ".join(each.label for each in stories),
        charts=[chart["name"] for chart in charts],
        runs=stories,
        compared=compare(stories, list(runs.values())) if several else None,
        stages=STAGES,
        data=embedded(data),
        style=Markup(_own("vendor/uPlot.min.css") + _own("templates/report.css")),
        scripts=[Markup(script) for script in scripts],
        policy=_policy(scripts),
        made=moment(made),
        version=__version__,
    )


def embedded(data: Any) -> Markup:
    """``data`` as JSON that is safe within a script element. Characters beyond ASCII are escaped by json itself."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _policy(scripts: list[str]) -> str:
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:"


def _own(path: str) -> str:
    return (files("esper.nissa.report") / path).read_text("utf-8")
