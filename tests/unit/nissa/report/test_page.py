"""The report's page from rows made by hand: what it says, and that nothing in a run's names can do harm."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from datetime import UTC, datetime
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from esper.nissa.report.page import embedded, page
from esper.nissa.report.story import story
from esper.tamiyo.advice import Finding
from tests.support.runs.reporting import HOSTILE, empty, full

NOW = datetime(2026, 1, 2, tzinfo=UTC)
VENDOR = files("esper.nissa.report") / "vendor"


class Seen(HTMLParser):
    """A page as a browser's parser has it: its elements, and the text of each kind of element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[str] = []
        self.text: dict[str, str] = {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside.append(tag)

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        for tag in {"*", *self.inside}:
            self.text[tag] = self.text.get(tag, "") + data

    def named(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_stay_text(name):
    harmless, hostile = Seen(page({"run": full()}, NOW)), Seen(page({name: full(name)}, NOW))
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in harmless.elements]
    assert {key for _, has in hostile.elements for key in has} == {key for _, has in harmless.elements for key in has}
    assert f"{name}#1" in hostile.text["b"]
    assert hostile.text["title"].startswith(name)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_as_data_cannot_end_the_script(name):
    text = embedded({name: [name]})
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {name: [name]}


def test_the_page_asks_for_nothing_else():
    text = page({"one": full(), "two": full("other")}, NOW)
    seen = Seen(text)
    for tag, has in seen.elements:
        assert not {"src", "srcset", "data", "action", "background", "poster"} & set(has), tag
        assert (has.get("href") or "#").startswith(("#", "data:")), has
        assert not [key for key in has if key.startswith("on")]
    assert not {"iframe", "object", "embed", "img", "form", "base"} & {tag for tag, _ in seen.elements}
    assert "url(" not in seen.text["style"]
    assert "@import" not in seen.text["style"]
    addresses = re.findall(r"https?://[^\s\"'<]+", text)
    assert addresses == ["https://github.com/leeoniya/uPlot"]  # in the comment with its licence


def test_the_policy_allows_only_the_scripts_of_the_page():
    seen = Seen(page({"run": full()}, NOW))
    [policy] = [has["content"] for has in seen.named("meta") if has.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "'unsafe-inline'" not in policy.partition("style-src")[0]


def test_vendored_files_are_those_that_the_readme_names():
    readme = (VENDOR / "README.md").read_text("utf-8")
    for name in ("uPlot.iife.min.js", "uPlot.min.css"):
        data = (VENDOR / name).read_bytes()
        assert f"| `{name}` | `{hashlib.sha256(data).hexdigest()}` |" in readme
        assert b"</" not in data
    assert "MIT" in (VENDOR / "LICENSE").read_text("utf-8")


def test_a_run_that_has_only_begun_gives_a_page():
    seen = Seen(page({"run": empty()}, NOW))
    assert "The network has not grown." in seen.text["h1"]
    assert "No seed has germinated" in seen.text["p"]
    assert "still training, or its trainer was killed" in seen.text["p"]


def test_a_run_whose_beginning_is_gone_gives_a_page():
    rows = full()
    rows["run"], rows["attempts"] = [], []
    assert "beginning of this run is no longer in the log" in page({"run": rows}, NOW)


def test_two_runs_are_compared_and_the_better_is_marked():
    better = full()
    better["boundaries"] = [{"x": 50, "loss": 0.01, "rate": 0.1}]
    seen = Seen(page({"one": full(), "two": better}, NOW))
    [_, rows] = seen.text["tr"].split("one", 1)
    assert "0.01" in rows
    assert seen.text["strong"] == "0.01"  # both have the same test, so neither is the best of them
    assert len(seen.named("article")) == 2
    assert "fc1 (two) has the lowest training loss, 0.01; next comes fc1 (one) with" in seen.text["p"]


def test_of_runs_of_different_tasks_none_is_the_best():
    other = full()
    other["run"][0]["task"] = "another"
    other["boundaries"] = [{"x": 50, "loss": 0.01, "rate": 0.1}]
    seen = Seen(page({"one": full(), "two": other}, NOW))
    assert "They were trained on different tasks, so what they reached cannot be compared." in seen.text["p"]
    assert "strong" not in seen.text


def test_of_tests_the_name_says_what_is_better():
    tested = {"a": full(), "b": full()}
    for run, value in zip(tested, (0.25, 0.5), strict=True):
        tested[run]["end"][0]["test"] = {"accuracy": value}
    assert "fc1 (b) has the highest test accuracy, 50.00\u00a0%; next comes fc1 (a) with 25.00\u00a0%." in page(
        tested, NOW
    )
    for run in tested:
        tested[run]["end"][0]["test"] = {"perplexity": tested[run]["end"][0]["test"]["accuracy"]}
    assert "fc1 (a) has the lowest test perplexity, 0.25; next comes fc1 (b) with 0.5." in page(tested, NOW)
    for run in tested:
        tested[run]["end"][0]["test"] = {"speed": tested[run]["end"][0]["test"]["perplexity"]}
    assert "None of them did better than the others." in page(tested, NOW)
    tested["b"]["end"][0]["test"] = {"accuracy": 1.0}
    assert "None of them did better than the others." in page(tested, NOW)


def test_a_run_is_called_what_people_call_it_beside_its_id():
    named, unnamed = full(), empty()
    named["about"][0] |= {"name": "wide", "tags": ["baseline", "best"], "notes": "first try"}
    seen = Seen(page({"one": named, "two": unnamed}, NOW))
    assert seen.text["a"].split() == ["Esper", "widetwo"]  # links to the runs
    assert seen.text["small"].startswith("one")
    assert "baseline" in seen.text["span"]
    assert "first try" in seen.text["p"]
    assert seen.text["title"] == "wide (one), two · Esper report"


def test_parameters_are_shown_and_those_that_differ_are_told():
    first, second = full(), full()
    for found, rate in ((first, 0.1), (second, 0.3)):
        found["about"][0]["params"] = json.dumps({"lr": rate, "data": {"train": 900, "kind": "digits"}})
    told = story("one", first)
    assert told.params == (("lr", "0.1"), ("data.train", "900"), ("data.kind", "digits"))
    text = page({"one": first, "two": second}, NOW)
    assert "params.lr" in text
    assert "params.data.train" not in text


@pytest.mark.parametrize(("kept", "heading"), [(False, "What to do next"), (True, "What could be better")])
def test_what_is_to_be_done_is_on_the_page(kept: bool, heading: str):
    found = full() if kept else empty()
    advice = [Finding("too few gate examples", "fc1#1 gained <b>", "set gate.folds=3")]
    text = page({"one": found}, NOW, {"one": advice})
    assert heading in text
    assert "fc1#1 gained &lt;b&gt;." in text
    assert "set gate.folds=3" in text
    assert heading not in page({"one": found}, NOW)


def test_what_was_different_is_named():
    other = full()
    other["run"][0] |= {"seed": 1, "settings": '{"boundary":{"steps":25},"policy":{"seeds":8}}'}
    text = re.sub(r"(\s*<[^>]+>\s*)+", "|", page({"one": full(), "two": other}, NOW))
    for row in ("|Random seed|0|1|", "|boundary.steps|50|25|", "|Seeds that were kept|fc1#2 fc1|fc1#2 fc1|"):
        assert row in text
    assert "policy.seeds" not in text
    assert "What else their programs do" in page({"one": full(), "two": full()}, NOW)


def test_what_cannot_be_drawn_is_told():
    rows = full()
    rows["about"][0]["metrics"] = 40
    rows["loss"][0]["broken"] = 3
    rows["metrics"] = [*rows["metrics"], {"metric": "best", "x": 0, "value": sys.float_info.max}]
    text = page({"one": rows}, NOW)
    assert "37 more are not drawn" in text
    assert "The loss of 3 steps was not finite" in text
    assert f"[{sys.float_info.max}]" in text
