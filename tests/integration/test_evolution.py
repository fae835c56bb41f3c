"""Schemas change only so that everything that was ever written can still be read."""

from __future__ import annotations

import importlib.util
import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from esper.cli.main import main
from esper.connections import registry_settings
from esper.errors import LogError
from esper.events.encoding import evolution
from esper.events.encoding.evolution import breaches, lost, names, past, topic_of, unread
from esper.events.encoding.schemas import Schema, schema_from_json, schema_of
from esper.events.runs import RunPaused, SeedTransitioned
from esper.log import open_log
from esper.log.kafka.address import Address
from esper.log.kafka.registry import Registry
from esper.log.records import run_record
from tests.support.paths import ROOT
from tests.support.services.brokers import Brokers

RECORD = {
    "type": "record",
    "name": "x.R",
    "fields": [
        {"name": "count", "type": "int"},
        {"name": "text", "type": "string"},
        {"name": "inner", "type": {"type": "record", "name": "x.I", "fields": [{"name": "a", "type": "double"}]}},
        {"name": "maybe", "type": ["null", "x.I"], "default": None},
        {"name": "many", "type": {"type": "array", "items": "x.I"}},
        {"name": "by_name", "type": {"type": "map", "values": "long"}},
        {"name": "kind", "type": {"type": "enum", "name": "x.E", "symbols": ["A", "B"]}},
        {"name": "hash", "type": {"type": "fixed", "name": "x.F", "size": 4}},
        {"name": "nested", "type": ["null", "x.R"], "default": None},
    ],
}
Change = Callable[[dict[str, dict[str, Any]]], Any]


def changed(change: Change) -> Schema:
    """RECORD after a change to its fields, given by name."""
    copied = json.loads(json.dumps(RECORD))
    fields = {field["name"]: field for field in copied["fields"]}
    change(fields)
    copied["fields"] = list(fields.values())
    return schema_from_json(json.dumps(copied))


def add(name: str, **field: Any) -> Change:
    return lambda fields: fields.update({name: {"name": name, **field}})


def retype(name: str, of: Any) -> Change:
    return lambda fields: fields[name].update(type=of)


def into(name: str, *more: dict[str, Any]) -> Change:
    """More fields in the record in the field ``inner``."""
    return lambda fields: fields[name]["type"]["fields"].extend(more)


CHANGES: dict[str, tuple[Change, str]] = {
    "nothing": (lambda fields: None, ""),
    "a field with a default": (add("new", type="long", default=0), ""),
    "a nullable field with a default": (add("new", type=["null", "x.I"], default=None), ""),
    "a field without a default": (add("new", type="long"), "field new: it is new and has no default"),
    "a nullable field without a default": (
        add("new", type=["null", "long"]),
        "field new: it is new and has no default",
    ),
    "a field less": (lambda fields: fields.pop("text"), ""),
    "a wider number": (retype("count", "long"), ""),
    "an int as a double": (retype("count", "double"), ""),
    "a narrower number": (
        lambda fields: fields["by_name"]["type"].update(values="int"),
        "field by_name{}: long cannot be read as int",
    ),
    "another type": (retype("text", "long"), "field text: string cannot be read as long"),
    "text as bytes": (retype("text", "bytes"), ""),
    "a field that becomes nullable": (retype("text", ["null", "string"]), ""),
    "a field that is nullable no more": (retype("maybe", "x.I"), "field maybe: null cannot be read as record"),
    "another type in a union": (
        retype("maybe", ["null", "string"]),
        "field maybe: record can no longer be read",
    ),
    "a new field deep inside": (into("inner", {"name": "b", "type": "long", "default": 0}), ""),
    "a new field without a default deep inside": (
        into("inner", {"name": "b", "type": "long"}),
        "field inner.b: it is new and has no default",
    ),
    "a list of something else": (
        lambda fields: fields["many"]["type"].update(items="string"),
        "field many[]: record cannot be read as string",
    ),
    "a symbol more": (lambda fields: fields["kind"]["type"].update(symbols=["A", "B", "C"]), ""),
    "a symbol less": (
        lambda fields: fields["kind"]["type"].update(symbols=["A"]),
        "field kind: B can no longer be read",
    ),
    "a symbol less with a default": (
        lambda fields: fields["kind"]["type"].update(symbols=["A"], default="A"),
        "",
    ),
    "another length": (
        lambda fields: fields["hash"]["type"].update(size=8),
        "field hash: 4 bytes cannot be read as 8",
    ),
    "another name": (
        lambda fields: (fields["hash"]["type"].update(name="x.G"),),
        "field hash: x.F cannot be read as x.G",
    ),
    "a field that is called differently": (
        lambda fields: fields["text"].update(name="words"),
        "field words: it is new and has no default",
    ),
    "an alias for the name before": (lambda fields: fields["text"].update(name="words", aliases=["text"]), ""),
}


@pytest.mark.parametrize(("change", "breach"), CHANGES.values(), ids=list(CHANGES))
def test_a_change_is_allowed_or_its_field_and_rule_are_named(change: Change, breach: str) -> None:
    assert [str(each) for each in breaches(changed(change), schema_from_json(json.dumps(RECORD)))] == [
        each for each in [breach] if each
    ]


@pytest.mark.parametrize(("change", "breach"), CHANGES.values(), ids=list(CHANGES))
def test_the_registry_is_of_the_same_opinion(change: Change, breach: str, shared_brokers: Brokers) -> None:
    from confluent_kafka.schema_registry import Schema as Text
    from confluent_kafka.schema_registry import SchemaRegistryClient
    from confluent_kafka.schema_registry.error import SchemaRegistryError

    subject, newer = f"evolution-{uuid.uuid4().hex}", Text(changed(change).json, "AVRO")
    with SchemaRegistryClient({"url": shared_brokers.registry}) as client:
        client.register_schema(subject, Text(json.dumps(RECORD), "AVRO"))
        client.set_compatibility(subject, "BACKWARD_TRANSITIVE")
        if not breach:
            client.register_schema(subject, newer)
            return
        with pytest.raises(SchemaRegistryError) as refused:
            client.register_schema(subject, newer)
    assert refused.value.http_status_code in (409, 422)


def test_another_logical_type_is_refused_though_the_registry_would_let_it_pass() -> None:
    micros = retype("count", {"type": "long", "logicalType": "timestamp-micros"})
    millis = retype("count", {"type": "long", "logicalType": "timestamp-millis"})
    (breach,) = breaches(changed(millis), changed(micros))
    assert str(breach) == "field count: timestamp-micros cannot be read as timestamp-millis"


def test_what_is_wrong_within_a_nullable_record_is_named() -> None:
    writer = schema_of(SeedTransitioned)
    raw = json.loads(writer.json)
    evidence = next(field for field in raw["fields"] if field["name"] == "evidence")
    evidence["type"][1]["fields"].append({"name": "luck", "type": "double"})
    (breach,) = breaches(schema_from_json(json.dumps(raw)), writer)
    assert str(breach) == "field evidence.luck: it is new and has no default"


@pytest.mark.parametrize("name", names())
def test_every_record_type_reads_what_all_its_past_versions_wrote(name: str) -> None:
    assert unread(name) == []


def test_no_record_type_that_was_ever_written_is_gone() -> None:
    assert lost() == []


@pytest.fixture
def altered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Change], None]:
    """Makes this checkout's version of a record type another one."""

    def alter(name: str, change: Change) -> None:
        raw = json.loads(past(name)[0].json)
        fields = {field["name"]: field for field in raw["fields"]}
        change(fields)
        raw["fields"] = list(fields.values())
        changed_schema = schema_from_json(json.dumps(raw))
        original = evolution.schema_named
        monkeypatch.setattr(
            evolution, "schema_named", lambda asked: changed_schema if asked == name else original(asked)
        )

    return alter


def test_the_command_passes_what_is_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schemas", "check"]) == 0
    assert f"{len(names())} record types" in capsys.readouterr().out


def test_the_command_names_schema_field_and_rule(
    altered: Callable[[str, Change], None], capsys: pytest.CaptureFixture[str]
) -> None:
    altered("esper.runs.RunPaused", add("mood", type="string"))
    assert main(["schemas", "check"]) == 1
    said = capsys.readouterr().err
    assert (
        "esper: esper.runs.RunPaused cannot read what its version 1 in schemas/past wrote: field mood: it is new and "
        "has no default"
    ) in said
    assert "esper.runs.RunPaused has changed since version 2 was recorded; `make schemas` records it" in said


def test_an_allowed_change_has_to_be_recorded(
    altered: Callable[[str, Change], None], capsys: pytest.CaptureFixture[str]
) -> None:
    altered("esper.runs.RunPaused", add("mood", type="string", default=""))
    assert main(["schemas", "check"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "has changed since version 2 was recorded" in line


def test_a_changed_schema_is_recorded_once_and_its_committed_versions_stay(
    altered: Callable[[str, Change], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "esper.runs.RunPaused"
    committed = "".join(f"{version.json}\n" for version in past(name))
    tool = _record_schemas()
    monkeypatch.setattr(evolution, "past_file", lambda name: tmp_path / f"{name}.jsonl")
    monkeypatch.setattr(tool, "committed", lambda path: committed)
    assert not tool.record(name)
    assert past(name)[-1].json in committed
    for mood in ("string", "long", "long"):  # the versions in between were never committed
        altered(name, add("mood", type=mood, default="" if mood == "string" else 0))
        assert tool.record(name)
        assert unread(name) == []
    lines = (tmp_path / f"{name}.jsonl").read_text()
    assert lines.startswith(committed)
    assert lines.count("\n") == committed.count("\n") + 1


def _record_schemas() -> Any:
    """The tool, which lies in no package."""
    path = ROOT / "tools" / "record_schemas.py"
    spec = importlib.util.spec_from_file_location("record_schemas", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def on_kafka(kafka_log_url: Callable[[], str]) -> str:
    """The URL of a log in whose registry RunPaused is."""
    url = kafka_log_url()
    registry = Registry(registry_settings())
    registry.register(Address.parse(url).named("esper.runs"), past("esper.runs.RunPaused")[-1])
    registry.close()
    return url


def test_the_command_compares_with_the_registry_too(
    on_kafka: str, altered: Callable[[str, Change], None], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["schemas", "check", "--registry", "--log", on_kafka]) == 0
    assert ", and the " in capsys.readouterr().out
    altered("esper.runs.RunPaused", add("mood", type="string"))
    assert main(["schemas", "check", "--registry", "--log", on_kafka]) == 1
    assert (
        "esper: esper.runs.RunPaused cannot read what its version 1 in the registry wrote: field mood: it is new and "
        "has no default"
    ) in capsys.readouterr().err


def test_a_registry_that_checks_less_is_named(on_kafka: str, capsys: pytest.CaptureFixture[str]) -> None:
    from confluent_kafka.schema_registry import SchemaRegistryClient

    subject = f"{Address.parse(on_kafka).named('esper.runs')}-esper.runs.RunPaused"
    with SchemaRegistryClient({"url": registry_settings().url}) as client:
        client.set_compatibility(subject, "NONE")
    assert main(["schemas", "check", "--registry", "--log", on_kafka]) == 1
    assert f"{subject} is NONE in the registry, not BACKWARD_TRANSITIVE" in capsys.readouterr().err


def test_a_log_without_a_registry_is_told_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schemas", "check", "--registry", "--log", f"sqlite:///{tmp_path}/log.db"]) == 2
    assert "has no schema registry" in capsys.readouterr().err


def test_a_schema_that_the_registry_refuses_is_named_when_it_is_first_written(
    kafka_log_url: Callable[[], str],
) -> None:
    url = kafka_log_url()
    strange = json.loads(past("esper.runs.RunPaused")[-1].json)
    strange["fields"] = [field for field in strange["fields"] if field["name"] != "reason"]
    registry = Registry(registry_settings())
    registry.register(Address.parse(url).named("esper.runs"), schema_from_json(json.dumps(strange)))
    registry.close()
    log = open_log(url)
    content = RunPaused(step=1, reason="asked")
    writer = log.open_writer("run")
    record = run_record("run", content, epoch=1, sequence=1, writer="test", time=datetime(2026, 1, 1, tzinfo=UTC))
    with pytest.raises(LogError) as refused:
        writer.append([record])
    assert "esper.runs.RunPaused" in str(refused.value)
    assert "`esper schemas check --registry` says which field it is" in str(refused.value)
    assert list(log.read("esper.runs")) == []
    log.close()


def test_a_new_log_takes_what_every_past_version_wrote(kafka_log_url: Callable[[], str]) -> None:
    url = kafka_log_url()
    assert main(["topics", "init", "--log", url]) == 0
    registry = Registry(registry_settings())
    for name in names():
        subject = f"{Address.parse(url).named(topic_of(name))}-{name}"
        assert [schema_from_json(text) for text in registry.subjects.versions(subject)] == past(name)
    registry.close()
