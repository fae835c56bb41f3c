"""Write a log fixture: ``log_fixture.py FILE``. It holds what this version of Esper writes, for later ones to replay.

A JSON object a line. The first says to which states the runs in it fold. Each other line is a record; one that belongs
to no run holds an example of its type, with what it says.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints
from uuid import UUID

from esper.cli.main import main as esper
from esper.events import Content, Envelope, Event
from esper.events.encoding.codec import encode, jsonable, to_json
from esper.events.encoding.schemas import name_of, schema_of
from esper.events.topics import ASSETS, RUNS
from esper.log import open_log
from esper.log.ordering import in_order
from esper.log.port import Entry, Position, Record
from esper.log.records import run_record
from esper.tamiyo.run.fold import fold
from esper.tamiyo.run.state import RunState
from esper.tolaria.journal import journal
from tests.support.runs.histories import TIME, simulate

QUICK = ("boundary.steps=25", "training.steps=75", "policy.warmup=25", "verdict.measurements=2")


def simulated(run_id: str) -> list[Record]:
    """A run with rollbacks, pauses and several epochs, as tests.support.runs.histories makes it up."""
    return [
        run_record(
            run_id,
            event.content,  # type: ignore[arg-type]
            epoch=event.envelope.epoch or 0,
            sequence=event.envelope.sequence or 0,
            writer=event.envelope.writer,
            time=event.envelope.time,
        )
        for event in simulate(random.Random(11), 20).events
    ]


def trained(run_id: str) -> list[Record]:
    """A run that was really trained, with the assets that it made."""
    journal.WRITER = "trainer/example/1"  # not this machine's name
    with tempfile.TemporaryDirectory() as home:
        words = [word for each in QUICK for word in ("--set", each)]
        code = esper(["train", "--task", "digits", "--steps", "200", "--run-id", run_id, "--home", home, *words])
        if code:
            raise SystemExit(code)
        log = open_log(f"sqlite:///{home}/log.db")
        records = [entry.record for topic in (ASSETS, RUNS) for entry in log.read(topic)]
        log.close()
    return records


def example(hint: Any, name: str) -> Any:
    """A value of an annotated type, none of its parts missing."""
    simple = {int: 7, float: 0.5, bool: True, str: f"a {name}", bytes: b"\0\xff", UUID: UUID(int=7), datetime: TIME}
    if hint in simple:
        return simple[hint]
    if is_dataclass(hint):
        hints = get_type_hints(hint)
        return hint(**{each.name: example(hints[each.name], each.name) for each in fields(hint)})
    if get_origin(hint) is tuple:
        return (example(get_args(hint)[0], name),) * 2
    if get_origin(hint) is dict:
        return {"b": 2.5, "a": 1.5} if get_args(hint)[1] is float else {"b": 2, "a": 1}
    (given,) = (each for each in get_args(hint) if each is not NoneType)
    return example(given, name)


def line(record: Record) -> dict[str, Any]:
    return {
        "topic": record.topic,
        "key": record.key,
        "name": record.schema.name,
        "schema": record.schema.fingerprint,
        "epoch": record.epoch,
        "sequence": record.sequence,
        "headers": [[name, value.decode()] for name, value in record.headers],
        "body": record.value.hex(),
    }


def examples() -> list[dict[str, Any]]:
    """One record of each type, with what it says."""
    made = []
    for content_class in get_args(Content):
        name, content = name_of(content_class), example(content_class, "")
        event = Event(Envelope(id=UUID(int=1), time=datetime(2024, 1, 1, tzinfo=UTC), writer="example"), content)
        record = Record(name.rpartition(".")[0], "an example", schema_of(content_class), encode(event))
        made.append(line(record) | {"says": to_json(event)})
    return made


def state(run_id: str, records: list[Record]) -> dict[str, Any]:
    place = Position(RUNS, 0, 0)
    entries = [Entry(place, TIME, record) for record in records if record.topic == RUNS]
    folded = fold(RunState(run_id), (event for _, event in in_order(entries)))
    plain: dict[str, Any] = jsonable(folded.plain())
    return {"digest": folded.digest_of_state(), "state": plain}


def main(path: str) -> None:
    runs = {"simulated": simulated("simulated"), "trained": trained("trained")}
    lines = [{"runs": {run_id: state(run_id, records) for run_id, records in runs.items()}}]
    lines += [line(record) for records in runs.values() for record in records]
    lines += examples()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("".join(json.dumps(each, separators=(",", ":")) + "\n" for each in lines))


if __name__ == "__main__":
    main(*sys.argv[1:])
