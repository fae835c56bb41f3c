"""Logs written by every past version of the schemas replay: tests/fixtures/logs, which tools/log_fixture.py makes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from fastavro import schemaless_reader, schemaless_writer

from esper.cli.main import main
from esper.events.encoding.codec import decode, to_json
from esper.events.encoding.evolution import OTHERS, breaches, names, past
from esper.events.encoding.schemas import Schema, schema_from_json
from esper.events.topics import RUNS
from esper.log import open_log
from esper.log.ordering import in_order
from esper.log.port import Record
from esper.tamiyo.run.fold import fold
from esper.tamiyo.run.state import RunState
from tests.support.paths import FIXTURES

LOGS = sorted((FIXTURES / "logs").glob("*.jsonl"))
each_fixture = pytest.mark.parametrize("fixture", LOGS, ids=lambda path: path.stem)


@cache
def read(fixture: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the runs of a fixture fold to, and its records."""
    head, *records = map(json.loads, fixture.read_text().splitlines())
    return head["runs"], records


@cache
def schema(name: str, fingerprint: str) -> Schema:
    """The recorded version of a schema with this fingerprint."""
    (found,) = {version.fingerprint: version for version in past(name) if version.fingerprint == fingerprint}.values()
    return found


def record(line: dict[str, Any]) -> Record:
    headers = tuple((name, value.encode()) for name, value in line["headers"])
    body = bytes.fromhex(line["body"])
    version = schema(line["name"], line["schema"])
    return Record(line["topic"], line["key"], version, body, headers, line["epoch"], line["sequence"])


def uncovered(today: Any, then: Any, where: str = "") -> list[str]:
    """Where ``today`` does not say what was said ``then``; it may say more, and leave fields out that are no more."""
    if isinstance(then, dict) and isinstance(today, dict):
        return [each for key in then.keys() & today for each in uncovered(today[key], then[key], f"{where}.{key}")]
    if isinstance(then, list) and isinstance(today, list) and len(then) == len(today):
        pairs = enumerate(zip(today, then, strict=True))
        return [each for place, pair in pairs for each in uncovered(*pair, f"{where}[{place}]")]
    return [] if today == then else [f"{where}: {today!r} was {then!r}"]


def test_every_recorded_version_of_every_type_is_in_a_fixture() -> None:
    wrote = {(line["name"], line["schema"]) for fixture in LOGS for line in read(fixture)[1]}
    recorded = {(name, version.fingerprint) for name in names() if name not in OTHERS for version in past(name)}
    assert recorded - wrote == set()


@each_fixture
def test_what_a_past_version_wrote_says_the_same_today(fixture: Path) -> None:
    examples = [line for line in read(fixture)[1] if "says" in line]
    assert examples
    for line in examples:
        event = decode(schema(line["name"], line["schema"]), bytes.fromhex(line["body"]))
        assert uncovered(to_json(event), line["says"]) == []


@each_fixture
def test_the_runs_of_a_past_version_replay(
    fixture: Path, log_url_factory: Callable[[], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, lines = read(fixture)
    url = log_url_factory()
    log = open_log(url)
    for run_id, expected in runs.items():
        records = [record(line) for line in lines if (line["topic"], line["key"]) == (RUNS, run_id)]
        log.open_writer(run_id, copied=expected["state"]["writer_epoch"]).append(records)
        assert [entry.record for entry in log.read(RUNS, key=run_id)] == records
        state = fold(RunState(run_id), (event for _, event in in_order(log.read(RUNS, key=run_id))))
        assert uncovered(state.plain(), expected["state"]) == []
        assert state.sequence == len(records)
    log.close()
    assert main(["verify", "trained", "--log", url, "--home", str(tmp_path)]) == 0
    assert "all agree" in capsys.readouterr().out


def newer(version: Schema) -> Schema:
    """The version after it, with one more field that has a default, at its end and within its envelope."""
    raw = json.loads(version.json)
    raw["fields"].append({"name": "mood", "type": "string", "default": "calm"})
    raw["fields"][0]["type"]["fields"].insert(0, {"name": "shift", "type": ["null", "long"], "default": None})
    return schema_from_json(json.dumps(raw))


@each_fixture
def test_a_next_version_with_another_field_reads_them_and_is_read_by_this_one(fixture: Path, tmp_path: Path) -> None:
    runs, lines = read(fixture)
    records = [record(line) for line in lines if (line["topic"], line["key"]) == (RUNS, "simulated")]
    written = []
    for each in records:
        after = newer(each.schema)
        assert breaches(after, each.schema) == breaches(each.schema, after) == []
        value: Any = schemaless_reader(BytesIO(each.value), each.schema.parsed, after.parsed)
        assert (value["mood"], value["envelope"]["shift"]) == ("calm", None)
        stream = BytesIO()
        schemaless_writer(stream, after.parsed, value | {"mood": "fine"})
        written.append(replace(each, schema=after, value=stream.getvalue()))
    log = open_log(f"sqlite:///{tmp_path}/log.db")
    log.open_writer("simulated", copied=9).append(written)
    state = fold(RunState("simulated"), (event for _, event in in_order(log.read(RUNS))))
    assert uncovered(state.plain(), runs["simulated"]["state"]) == []
    assert state.sequence == len(records)
    log.close()


def test_a_difference_between_then_and_now_is_noticed() -> None:
    assert uncovered({"a": 1, "b": [1, {"c": 2}], "new": 3}, {"a": 1, "b": [1, {"c": 2}], "dropped": 4}) == []
    assert uncovered({"a": 1, "b": [1, {"c": 3}]}, {"a": 1, "b": [1, {"c": 2}]}) == [".b[1].c: 3 was 2"]
    assert uncovered({"b": [1]}, {"b": [1, 2]}) == [".b: [1] was [1, 2]"]
