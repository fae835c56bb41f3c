"""The log against a model of itself, under random interleavings of writers, fences, signals and reads."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from esper.errors import Fenced, SequenceConflict, SequenceGap
from esper.events.encoding.schemas import schema_of
from esper.events.runs import AlertRaised
from esper.events.topics import ASSETS, PARTITIONS, RUNS, SIGNALS
from esper.log import open_log
from esper.log.partitions import partition_of
from esper.log.port import Log, Position, Record, Writer

SCHEMA = schema_of(AlertRaised)
KEYS = st.sampled_from(["run", "run-2", "Ω/läuft", "nul\0key"])
VALUES = st.binary(max_size=20)
HEADERS = st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=5)), max_size=3).map(tuple)
PLACES = st.integers(0, 2)


class LogMachine(RuleBasedStateMachine):
    """The model: for each topic and key the records in order, for each run its epoch and last sequence number."""

    writers = Bundle("writers")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.url = f"sqlite:///{Path(self.folder.name)}/log.db"
        self.logs: list[Log] = [open_log(self.url) for _ in range(3)]
        self.held: dict[tuple[str, str], list[tuple[Position, Record]]] = defaultdict(list)
        self.epochs: dict[str, int] = defaultdict(int)
        self.lasts: dict[str, int] = defaultdict(int)
        self.signals: dict[tuple[str, bytes], tuple[Position, bytes]] = {}

    def teardown(self) -> None:
        for log in self.logs:
            log.close()
        self.folder.cleanup()

    @rule(target=writers, place=PLACES, run=KEYS)
    def open_writer(self, place: int, run: str) -> Any:
        writer = self.logs[place].open_writer(run)
        self.epochs[run] += 1
        assert (writer.epoch, writer.sequence) == (self.epochs[run], self.lasts[run])
        return multiple(writer)

    @rule(writer=writers, parts=st.lists(st.tuples(st.booleans(), KEYS, VALUES, HEADERS), min_size=1, max_size=6))
    def append(self, writer: Writer, parts: list[tuple[bool, str, bytes, Any]]) -> None:
        records, last = [], self.lasts[writer.run_id]
        for of_run, key, value, headers in parts:
            if of_run:
                last += 1
                records.append(Record(RUNS, writer.run_id, SCHEMA, value, headers, writer.epoch, last))
            else:
                records.append(Record(ASSETS, key, SCHEMA, value, headers))
        if writer.epoch < self.epochs[writer.run_id]:
            # To its own numbers a zombie may be behind: both are refusals, and nothing is written.
            with pytest.raises((Fenced, SequenceGap)):
                writer.append(records)
            return
        position = writer.append(records)
        self.lasts[writer.run_id] = last
        for record in records:
            self.held[record.topic, record.key].append(self.new(record.topic, record.key))
            assert self.held[record.topic, record.key][-1][1] == record
        of_run = [place for place, _ in self.held[RUNS, writer.run_id]]
        assert position == (of_run[-1] if any(parts_of_run for parts_of_run, *_ in parts) else None)

    @rule(writer=writers, skip=st.sampled_from([-1, 1, 5]))
    def append_with_a_gap(self, writer: Writer, skip: int) -> None:
        number = self.lasts[writer.run_id] + 1 + skip
        bad = Record(RUNS, writer.run_id, SCHEMA, b"", (), writer.epoch, number)
        if writer.epoch == self.epochs[writer.run_id]:
            with pytest.raises(SequenceGap):
                writer.append([Record(ASSETS, "run", SCHEMA, b""), bad])

    @rule(place=PLACES, key=KEYS, identity=st.sampled_from([b"1", b"2"]), value=st.sampled_from([b"a", b"b"]))
    def signal(self, place: int, key: str, identity: bytes, value: bytes) -> None:
        record = Record(SIGNALS, key, SCHEMA, value, (("ce_id", identity),))
        known = self.signals.get((key, identity))
        if known is None:
            position = self.logs[place].signal(record)
            self.signals[key, identity] = position, value
            self.held[SIGNALS, key].append((position, record))
        elif known[1] == value:
            assert self.logs[place].signal(record) == known[0]
        else:
            with pytest.raises(SequenceConflict):
                self.logs[place].signal(record)

    @rule(place=PLACES, topic=st.sampled_from([RUNS, SIGNALS, ASSETS]), key=KEYS, share=st.floats(0, 1))
    def read_a_key(self, place: int, topic: str, key: str, share: float) -> None:
        held = self.held[topic, key]
        assert self.read(place, topic, key) == held
        if held:
            start = round(share * (len(held) - 1))
            assert self.read(place, topic, key, held[start][0]) == held[start + 1 :]

    @rule(place=PLACES)
    def open_again(self, place: int) -> None:
        self.logs.append(open_log(self.url))
        self.logs[place], self.logs[-1] = self.logs[-1], self.logs[place]

    @invariant()
    def a_topic_is_its_partitions_one_after_another(self) -> None:
        for topic in (RUNS, SIGNALS, ASSETS):
            parts: list[list[tuple[Position, Record]]] = [[] for _ in range(PARTITIONS)]
            for (held_topic, key), held in self.held.items():
                if held_topic == topic:
                    parts[partition_of(key)] += held
            wanted = [item for part in parts for item in sorted(part, key=lambda item: item[0])]
            assert self.read(0, topic) == wanted

    def new(self, topic: str, key: str) -> tuple[Position, Record]:
        """The first record there that the model does not know yet."""
        held = self.held[topic, key]
        return self.read(0, topic, key, held[-1][0] if held else None)[0]

    def read(
        self, place: int, topic: str, key: str | None = None, after: Position | None = None
    ) -> list[tuple[Position, Record]]:
        return [(entry.position, entry.record) for entry in self.logs[place].read(topic, key, after)]


TestLogModel = LogMachine.TestCase
TestLogModel.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
