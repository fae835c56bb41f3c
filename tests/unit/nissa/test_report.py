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

from esper.errors import RunNotFound
from esper.nissa.report.curves import curves, together
from esper.nissa.report.diary import diary
from esper.nissa.report.evidence import measured
from esper.nissa.report.gather import gather
from esper.nissa.report.lifelines import chosen, lifelines
from esper.nissa.report.page import embedded, page
from esper.nissa.report.story import story, ticks
from esper.nissa.report.words import duration, figure, listed, percent, size
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


def test_the_story_in_words():
    told = story("run", full())
    assert told.headline == "The network grew: it kept one of three seeds."
    assert "Of three seeds, one became part of the network and two did not help" in told.summary
    assert "The network is 30.0\u00a0% larger now." in told.summary
    assert told.summary.endswith("its loss is 0.01 higher without fc1#2, as their audits measured.")
    assert told.warnings == ("The run failed: fc1",)
    assert [attempt.again for attempt in told.attempts] == ["40 steps run again later", "", ""]
    assert [attempt.title for attempt in told.attempts][1] == "Resumed from a checkpoint within 1.5\u00a0s"


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


def test_what_the_program_measured_is_drawn_and_shared_metrics_are_compared():
    first, second = full("a"), full("b")
    charts = together({"one": first, "two": second}, ["one", "two"])
    assert [chart["name"] for chart in charts] == ["Training loss", "val/accuracy"]
    assert charts[1]["columns"][0] == [x / 1000 for x in range(0, 1000, 100)]
    drawn = curves(first)["metrics"]
    assert [chart["name"] for chart in drawn] == ["a", "val/accuracy"]
    assert drawn[1]["x"] == list(range(0, 1000, 100))
    first["about"][0]["metrics"] = 40
    assert "38 more are not drawn" in page({"one": first}, NOW)


def test_the_largest_number_there_is_is_drawn():
    found = full()
    found["metrics"] = [{"metric": "best", "x": 0, "value": sys.float_info.max}]
    assert curves(found)["metrics"][0]["y"] == [sys.float_info.max]
    assert "<html" in page({"one": found}, NOW)


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


def test_lifelines_follow_the_rollback():
    lines = {line.seed: line for line in lifelines(full()["moves"], full()["rollbacks"], 1000)}
    removed, kept, undone = lines["fc1#1"], lines["fc1#2"], lines["fc1#3"]
    assert [(span.stage, span.start, span.end) for span in removed.spans] == [
        ("GERMINATED", 100, 150),
        ("TRAINING", 150, 400),
    ]
    assert (removed.gone, removed.fate) == (40.0, "removed at step 400")
    assert (kept.spans[-1].stage, kept.spans[-1].end, kept.gone) == ("FOSSILISED", 1000, None)
    assert (undone.fate, undone.gone) == ("undone by a rollback at step 900", 90.0)


def test_a_rollback_returns_a_seed_to_what_it_was():
    rows = full()
    back = [{"sequence": 50, "step": 750, "to_step": 520}]
    line = lifelines(rows["moves"][:8], back, 1000)[1]
    assert (line.stage, line.since) == ("TRAINING", 750)
    assert [span.stage for span in line.spans] == [
        "GERMINATED",
        "TRAINING",
        "BLENDING",
        "HOLDING",
        "FOSSILISED",
        "TRAINING",
    ]


def test_of_many_seeds_those_that_last_are_drawn():
    moves = [
        {"sequence": place, "step": 10, "seed": f"a#{place}", "site": "a", "blueprint": "b", "kernel": "k", "stage": to}
        for place, to in enumerate(["FOSSILISED", *["CULLED"] * 100])
    ]
    kept = [line.seed for line in chosen(lifelines(moves, [], 20), most=3)]
    assert kept == ["a#0", "a#99", "a#100"]


def test_evidence_says_the_bound_against_the_threshold():
    failed, passed, audit, finite = measured(full()["gates"])
    assert "has to be more than 0.0021" in failed.answer
    assert failed.drawing.bound < failed.drawing.mean < failed.drawing.zero < failed.drawing.threshold
    assert "surely lower by at least 0.01: more than the 0.0021" in passed.answer
    assert passed.drawing.threshold < passed.drawing.bound
    assert "0.02, is not below −0.002, which would be a rise beyond doubt" in audit.answer
    harmful = {**full()["gates"][2], "passed": False, "mean": -0.03, "bound": -0.01}
    [audit] = measured([harmful])
    assert "the loss rose by 0.03 on 100 held-out examples, surely by at least 0.01: more than" in audit.answer
    assert (finite.drawing, finite.answer) == (None, "because of fc1")


def test_the_diary_is_in_the_order_of_events():
    entries, left_out = diary(full())
    assert [entry.sequence for entry in entries] == sorted(entry.sequence for entry in entries)
    assert [entry.kind for entry in entries] == ["wait", "cull", "grow", "blend", "keep", "stop", "stop", "end"]
    assert (entries[2].title, left_out) == ("Try fc1 at fc1", 0)
    assert "by 0.001" in entries[1].text


def test_the_diary_does_not_say_twice_what_is_tried():
    rows = full()
    rows["decisions"][1]["reason"] = "fc1 (3,700 parameters) at fc1: gradient norm 0.4; nothing was tried there yet"
    told = diary(rows)[0][2]
    assert told.text == "3,700 parameters; gradient norm 0.4; nothing was tried there yet (proposed by fc1)"


def test_curves_leave_gaps_where_nothing_is_finite():
    rows = empty(10)
    rows["loss"] = [{"x": 0, "low": None, "high": None, "mean": None, "broken": 3}, _point(5)]
    rows["boundaries"] = [{"x": 0, "loss": None, "rate": 0.1}, {"x": 5, "loss": float("inf"), "rate": 0.1}]
    assert curves(rows)["loss"] == {"x": [5], "mean": [None], "low": [1], "high": [2]}
    assert "The loss of 3 steps was not finite" in page({"run": rows}, NOW)


def _point(x):
    return {"x": x, "low": 1.0, "high": 2.0, "mean": 1.5, "broken": 0}


def test_an_unknown_run_is_one_line_with_a_hint():
    def ask(sql, parameters, form):
        if "GROUP BY key" in sql:
            return b'{"meta": [{"name": "key", "type": "String"}], "data": [{"key": "digits-1"}]}'
        return b'{"meta": [{"name": "events", "type": "UInt64"}], "data": [{"events": "0", "steps": 0}]}'

    with pytest.raises(RunNotFound, match=r"no run 'digits-2' in the database; did you mean digits-1\?"):
        gather(ask, "digits-2")


@pytest.mark.parametrize(("steps", "last"), [(0, 0), (1, 1), (6, 6), (7, 6), (3360, 3000), (10**9, 10**9)])
def test_ticks_are_few_and_round(steps, last):
    found = ticks(steps)
    assert len(found) <= 7
    assert (found[0], found[-1][0]) == ((0, 0.0), last)


def test_words():
    assert [figure(value) for value in (None, 0.0, -0.00201, 0.0000957, 1234.5, 1e-9)] == [
        "–",
        "0",
        "−0.00201",
        "0.0000957",
        "1,234",
        "1e−09",
    ]
    told = [duration(value).replace("\u00a0", " ") for value in (None, 0.0102, 4.24, 59.7, 192, 7500, 360_000)]
    assert told == ["–", "10.2 ms", "4.2 s", "1 min", "3 min 12 s", "2 h 5 min", "4 d 4 h"]
    assert (percent(0.0123), size(9_660_000)) == ("1.23\u00a0%", "9.66\u00a0MB")
    assert [listed(parts) for parts in ((), ("a",), ("a", "b", "c"))] == ["", "a", "a, b and c"]
