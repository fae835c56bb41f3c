"""What the codec does with other versions' records, damaged bytes and values that JSON cannot hold."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import fastavro
import pytest

from esper.errors import DecodeError
from esper.events import Envelope, Event
from esper.events.assets import KernelRequested
from esper.events.encoding.codec import canonical_json, content_bytes, content_digest, decode, encode, to_json
from esper.events.encoding.schemas import Schema, schema_from_json, schema_of, schemas_dir
from esper.events.runs import AlertRaised, BoundaryReached, CommandAccepted, RunCompleted, RunPaused, Trial

ENVELOPE = Envelope(
    id=UUID(int=7),
    time=datetime(2024, 5, 1, 12, 30, 0, 123456, tzinfo=UTC),
    writer="trainer",
    epoch=2,
    sequence=9,
    causes=(UUID(int=1), UUID(int=2)),
)
TRIAL = Trial(seed="fc1#1", fold=1, n=100, mean=0.1, s=0.2, gradient_norm=None)
BOUNDARY = BoundaryReached(
    step=25,
    epoch=0,
    batch=25,
    loss=0.5,
    learning_rate=0.1,
    digest="d",
    tensors=b"\x00\xff",
    data="x",
    first_data="y",
    sites=None,
    health=None,
    trials=(TRIAL,),
    measured={"seconds": 0.5},
)
PAUSED = Event(ENVELOPE, RunPaused(step=3, reason="asked"))


def other_version(content_class: type, change: Callable[[dict[str, Any]], None]) -> Schema:
    """Our schema of the class, as another version of Esper might have had it."""
    raw = json.loads(schema_of(content_class).json)
    change(raw)
    return schema_from_json(json.dumps(raw))


def written(schema: Schema, record: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, schema.parsed, record)
    return stream.getvalue()


def test_what_is_decoded_is_a_real_frozen_dataclass_with_tuples() -> None:
    event = decode(schema_of(BoundaryReached), encode(Event(ENVELOPE, BOUNDARY)))
    assert event == Event(ENVELOPE, BOUNDARY)
    assert type(event) is Event
    assert type(event.content) is BoundaryReached
    assert event.content.trials == (TRIAL,)
    assert hash(event.content.trials[0]) == hash(TRIAL)
    assert dataclasses.replace(event.content, step=26).step == 26
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.content.step = 26  # type: ignore[misc]


def test_an_older_record_without_an_optional_field_reads_as_none() -> None:
    def without_measured_and_causes(raw: dict[str, Any]) -> None:
        raw["fields"] = [field for field in raw["fields"] if field["name"] != "measured"]
        envelope = raw["fields"][0]["type"]
        envelope["fields"] = [field for field in envelope["fields"] if field["name"] != "causes"]

    older = other_version(RunPaused, without_measured_and_causes)
    record = {"envelope": dataclasses.asdict(ENVELOPE), "step": 3, "reason": "asked"}
    event = decode(older, written(older, record))
    assert event == Event(dataclasses.replace(ENVELOPE, causes=()), RunPaused(step=3, reason="asked", measured=None))


def test_a_newer_record_with_more_fields_and_another_order_reads_as_ours() -> None:
    def more(raw: dict[str, Any]) -> None:
        raw["fields"].reverse()
        raw["fields"].insert(1, {"name": "mood", "type": ["null", "string"], "default": None})
        trials = next(field for field in raw["fields"] if field["name"] == "trials")
        trials["type"]["items"]["fields"].insert(0, {"name": "extra", "type": {"type": "array", "items": "long"}})

    newer = other_version(BoundaryReached, more)
    record: Any = fastavro.schemaless_reader(
        io.BytesIO(encode(Event(ENVELOPE, BOUNDARY))), schema_of(BoundaryReached).parsed, None
    )
    record["mood"] = "fine"
    record["trials"][0]["extra"] = [1, 2, 3]
    assert decode(newer, written(newer, record)) == Event(ENVELOPE, BOUNDARY)


def test_a_newer_record_that_cannot_be_read_as_ours_says_so() -> None:
    def another_type(raw: dict[str, Any]) -> None:
        next(field for field in raw["fields"] if field["name"] == "step")["type"] = "string"

    newer = other_version(RunPaused, another_type)
    body = written(newer, {"envelope": dataclasses.asdict(ENVELOPE), "step": "third", "reason": "asked"})
    with pytest.raises(DecodeError, match=r"esper\.runs\.RunPaused: .*newer version"):
        decode(newer, body)


def test_a_record_of_an_unknown_type_names_it_and_a_newer_version() -> None:
    newer = schema_from_json(schema_of(RunPaused).json.replace('"esper.runs.RunPaused"', '"esper.runs.RunMoved"'))
    with pytest.raises(DecodeError, match=r"esper\.runs\.RunMoved: .*newer version"):
        decode(newer, encode(PAUSED))


def test_a_part_of_an_event_is_no_event() -> None:
    envelope = schema_from_json((schemas_dir() / "esper.Envelope.avsc").read_text(encoding="utf-8"))
    with pytest.raises(DecodeError, match=r"esper\.Envelope"):
        decode(envelope, written(envelope, dataclasses.asdict(ENVELOPE)))


def test_every_shortened_or_lengthened_record_is_a_decode_error() -> None:
    schema, body = schema_of(BoundaryReached), encode(Event(ENVELOPE, BOUNDARY))
    for length in range(len(body)):
        with pytest.raises(DecodeError, match=r"esper\.runs\.BoundaryReached"):
            decode(schema, body[:length])
    with pytest.raises(DecodeError, match="1 bytes too many"):
        decode(schema, body + b"\x00")


def test_times_are_kept_to_the_microsecond_and_read_as_utc() -> None:
    local = ENVELOPE.time.astimezone(timezone(timedelta(hours=-7)))
    event = decode(schema_of(RunPaused), encode(Event(dataclasses.replace(ENVELOPE, time=local), PAUSED.content)))
    assert event.envelope.time == ENVELOPE.time
    assert event.envelope.time.tzinfo == UTC


def test_a_time_without_a_zone_is_refused() -> None:
    naive = dataclasses.replace(ENVELOPE, time=datetime(2024, 5, 1))
    with pytest.raises(TypeError, match="naive"):
        encode(Event(naive, PAUSED.content))


def test_an_integer_beyond_64_bits_is_refused() -> None:
    with pytest.raises(OverflowError):
        encode(Event(ENVELOPE, RunPaused(step=2**63, reason="asked")))


def test_a_digest_ignores_the_order_of_maps_and_measured_and_nothing_else() -> None:
    content = RunCompleted(
        step=1, final_loss=0.5, test={"a": 1.0, "b": 2.0}, parameters_digest="p", seeds={"CULLED": 1, "FOSSILISED": 2}
    )
    same = dataclasses.replace(content, test={"b": 2.0, "a": 1.0}, measured={"seconds": 3.0})
    assert content_bytes(same) == content_bytes(content)
    changes: list[dict[str, Any]] = [{"step": 2}, {"final_loss": -0.5}, {"test": {"a": 1.0}}, {"seeds": {"CULLED": 1}}]
    assert (
        len({content_digest(dataclasses.replace(content, **change)) for change in changes} - {content_digest(content)})
        == 4
    )


def test_a_digest_covers_the_type_of_the_event() -> None:
    requested = KernelRequested(blueprint="b@0", kind="Linear", dims=(1, 2), seed=3)
    fingerprint = bytes.fromhex(schema_of(KernelRequested).fingerprint)
    assert content_bytes(requested).startswith(fingerprint)


def test_digests_do_not_depend_on_the_sign_of_nan() -> None:
    digests = {
        content_digest(AlertRaised(step=1, kind="k", detail="d", value=value))
        for value in (float("nan"), -float("nan"))
    }
    assert len(digests) == 1


SCRIPT = """
import sys
from esper.events.encoding.codec import canonical_json, content_digest
from esper.events.ids import run_event_id
from esper.events.runs import RunCompleted
names = {f"name {i}" for i in range(50)}
content = RunCompleted(step=1, final_loss=float("nan"), test={name: 0.5 for name in names}, parameters_digest="p",
                       seeds={name: 1 for name in names})
print(content_digest(content), canonical_json(content), run_event_id("run", 1, 2))
print(list(names)[:3] , file=sys.stderr)
assert "torch" not in sys.modules
"""


def test_digests_are_equal_in_processes_with_other_hash_seeds() -> None:
    def run(hash_seed: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(schemas_dir().parent)}
        return subprocess.run(
            [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
        )

    results = [run(hash_seed) for hash_seed in ("0", "1", "2")]
    assert len({result.stderr for result in results}) > 1, "the script's sets should differ in order"
    assert len({result.stdout for result in results}) == 1


def test_canonical_json_sorts_keys_and_writes_what_json_cannot_hold_as_strings() -> None:
    value = {
        "b": (1, 2.0, None, True),
        "a": [float("nan"), float("inf"), -float("inf")],
        "é": b"\x00\xff",
        "id": UUID(int=1),
        "time": ENVELOPE.time,
        "trial": TRIAL,
    }
    assert canonical_json(value) == (
        '{"a":["NaN","Infinity","-Infinity"],"b":[1,2.0,null,true],"id":"00000000-0000-0000-0000-000000000001",'
        '"time":"2024-05-01T12:30:00.123456+00:00",'
        '"trial":{"fold":1,"gradient_norm":null,"loss":null,"mean":0.1,"n":100,"s":0.2,"seed":"fc1#1"},"\\u00e9":"00ff"}'
    )


@pytest.mark.parametrize("value", [{1, 2}, {1: "a"}, object(), 1j])
def test_canonical_json_refuses_what_has_no_canonical_form(value: object) -> None:
    with pytest.raises(TypeError):
        canonical_json({"deep": [value]})


def test_to_json_holds_the_fields_of_the_content() -> None:
    accepted = CommandAccepted(
        step=1, command=UUID(int=5), kind="cull", seed="a#1", issuer="me", measured={"x": float("inf")}
    )
    assert to_json(Event(ENVELOPE, accepted)) == {
        "step": 1,
        "command": str(UUID(int=5)),
        "kind": "cull",
        "seed": "a#1",
        "issuer": "me",
        "measured": {"x": "Infinity"},
    }
