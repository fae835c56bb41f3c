"""The chain through a run's events: what a link covers, and which records have one."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256

import pytest

from esper.events.runs import AlertRaised
from esper.log.chain import LINK, chained, digest, first_link
from esper.log.port import Entry, Position, Record
from esper.log.records import asset_record, event_of, run_record
from esper.urza import register

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def alert(sequence: int) -> Record:
    content = AlertRaised(step=sequence, kind="test", detail="", value=None)
    return run_record("run", content, epoch=1, sequence=sequence, writer="test", time=NOW)


def link_of(record: Record) -> bytes | None:
    return event_of(Entry(Position("esper.runs", 0, 0), NOW, record)).link


BLUEPRINT = asset_record(register()[0], writer="test", time=NOW)


def test_the_first_link_is_of_the_run_alone() -> None:
    assert first_link("run") == sha256(b"run").digest()
    assert first_link("other") != first_link("run")


def test_each_event_holds_the_digest_of_the_one_before_it() -> None:
    (one, two, three), after = chained([alert(1), alert(2), alert(3)], first_link("run"))
    assert [link_of(each) for each in (one, two, three)] == [first_link("run"), digest(one), digest(two)]
    assert after == digest(three)
    assert [dict(each.headers)[LINK] for each in (one, two)] == [
        first_link("run").hex().encode(),
        digest(one).hex().encode(),
    ]


def test_records_of_other_topics_are_left_as_they_are_and_no_link_is_spent_on_them() -> None:
    (one, asset, two), _ = chained([alert(1), BLUEPRINT, alert(2)], first_link("run"))
    assert asset == BLUEPRINT
    assert link_of(two) == digest(one)
    assert chained([BLUEPRINT], b"x" * 32) == ([BLUEPRINT], b"x" * 32)


def test_chaining_in_parts_is_chaining_at_once() -> None:
    whole, end = chained([alert(1), alert(2), alert(3)], first_link("run"))
    part, middle = chained([alert(1)], first_link("run"))
    rest, last = chained([alert(2), alert(3)], middle)
    assert (part + rest, last) == (whole, end)


@pytest.mark.parametrize("what", ["value", "schema"])
def test_a_digest_is_of_the_schema_and_the_body_as_they_are_stored(what: str) -> None:
    one = alert(1)
    other = replace(one, value=one.value[:-1] + b"x") if what == "value" else replace(one, schema=BLUEPRINT.schema)
    assert digest(other) != digest(one)
    assert digest(one) == sha256(bytes.fromhex(one.schema.fingerprint) + one.value).digest()
    assert digest(replace(one, headers=(), key="elsewhere")) == digest(one)
