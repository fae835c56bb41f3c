"""What follows when the log has given a run's writer up: another writer, and the run read to its end.

A lost writer means a rival, or a transaction that timed out while the log was away. The run itself tells which. After
a rival's events there is nothing left but to stop. Without any, re-opening is a resume: the new writer begins with
RunResumed, then comes what is missing, with the same content and causes under new numbers.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast
from uuid import UUID

from esper.errors import Fenced, SequenceConflict
from esper.events import RunContent
from esper.events.encoding.codec import decode
from esper.events.ids import run_event_id
from esper.events.runs import Environment, RunResumed
from esper.events.topics import RUNS
from esper.log.chain import Mark
from esper.log.claims import follow_on
from esper.log.deadletter import sending_to
from esper.log.exclusions import order_of
from esper.log.ordering import Order
from esper.log.port import Entry, Log, Record, Writer
from esper.log.records import run_record
from esper.tamiyo.run.state import RunState

WRITER = f"trainer/{socket.gethostname()}/{os.getpid()}"
NOTE = "the log gave the writer up while it was away"


@dataclass(frozen=True, slots=True)
class Reopened:
    """A writer in place of the lost one, where the run ends, and whether what was in doubt is on the log after all."""

    writer: Writer
    tail: Mark
    committed: bool


class Writers:
    """The writers that this process opens for one run, one after another."""

    def __init__(self, log: Log, run_id: str, environment: Environment) -> None:
        self.url, self.run_id = log.url, run_id
        self._log, self._environment = log, environment
        self._epochs: set[int] = set()

    def open(self) -> Writer:
        """Open a writer; the one before it, of whatever process, is fenced."""
        writer = self._log.open_writer(self.run_id)
        self._epochs.add(writer.epoch)
        return writer

    def reopen(self, sent: Sequence[Record], tail: Mark) -> Reopened:
        """Open a writer in place of one that was lost while it appended ``sent`` behind ``tail``.

        Raises Fenced if another trainer has written to the run since: one that did so before is not fenced in turn.
        Any other LogError: the log is still away, and the call may be repeated.
        """
        self._read(tail)
        writer = self.open()
        try:
            order, found = self._read(tail)  # the lost transaction is settled now; a rival may have come in between
            follow_on(self._log, writer, order)
            return Reopened(writer, order.mark, is_on_the_log(sent, [entry.record for entry in found]))
        except BaseException:
            writer.close()
            raise

    def read_back(self, begun: Mark, tail: Mark) -> None:
        """Raise SequenceConflict unless the run's events between ``begun`` and its end are those up to ``tail``."""
        order = order_of(self._log, self.run_id, after=begun, unreadable=sending_to(self._log, WRITER))
        for entry, event in order.over(self._log.read(RUNS, key=self.run_id, after=begun.position)):
            if order.sequence > tail.sequence:
                kind = type(event.content).__name__
                raise SequenceConflict(
                    f"run {self.run_id}: event {order.sequence}, {kind} at {entry.position}, is not this trainer's; "
                    f"if it is no other's, take it out with `esper dlq exclude {entry.position} --why TEXT`",
                    entry.position,
                )
        if order.mark.link != tail.link:
            raise SequenceConflict(
                f"run {self.run_id}: the log ends at event {order.sequence}, but event {tail.sequence} was committed; "
                "copy the run to a new log from one that has it whole"
            )

    def resumed(self, state: RunState, epoch: int) -> Record:
        """What the re-opened writer of ``epoch`` begins with, behind the events of ``state``."""
        newest = max(each.step for each in state.checkpoints)
        content = RunResumed(
            checkpoint=newest, inexact=False, environment=self._environment, notes=(NOTE,), reopened=True
        )
        place = state.sequence + 1
        return run_record(self.run_id, content, epoch=epoch, sequence=place, writer=WRITER, time=datetime.now(UTC))

    def _read(self, tail: Mark) -> tuple[Order, list[Entry]]:
        """The run's events behind ``tail``; raises Fenced if one is of another trainer's later epoch."""
        order = order_of(self._log, self.run_id, after=tail)
        found = [entry for entry, _ in order.over(self._log.read(RUNS, key=self.run_id, after=tail.position))]
        for entry in found:
            epoch = entry.record.epoch or 0
            if epoch > tail.epoch and epoch not in self._epochs:
                raise Fenced(self.run_id, epoch)
        return order, found


def is_on_the_log(sent: Sequence[Record], found: Sequence[Record]) -> bool:
    """Whether the transaction ``sent`` was committed: ``found`` are the run's records behind those known before it.

    It was as a whole, or not at all; raises SequenceConflict if ``found`` says anything else.
    """
    there = {record.sequence: record.value for record in found}
    events = [record for record in sent if record.topic == RUNS]
    known = [record for record in events if record.sequence in there]
    if not known:
        return False
    wrong = [record for record in events if there.get(record.sequence) != record.value]
    if wrong:
        raise SequenceConflict(
            f"run {wrong[0].key}: event {wrong[0].sequence} on the log is not the one that was sent there; "
            "another program writes to it: let trainers alone write runs, then resume this one"
        )
    return True


def renumbered(records: Sequence[Record], epoch: int, sequence: int) -> list[Record]:
    """``records`` as the writer of ``epoch`` appends them behind event ``sequence``: with the same contents, times
    and causes. Those that have these numbers already, and those of other topics, are the same objects."""
    ids: dict[UUID, UUID] = {}  # of events that have another now, for those that they caused
    done = []
    for record in records:
        sequence += record.topic == RUNS
        as_is = record.topic != RUNS or (record.epoch, record.sequence) == (epoch, sequence)
        done.append(record if as_is else _renumbered(record, epoch, sequence, ids))
    return done


def _renumbered(record: Record, epoch: int, sequence: int, ids: dict[UUID, UUID]) -> Record:
    event = decode(record.schema, record.value)
    envelope = event.envelope
    ids[envelope.id] = run_event_id(record.key, epoch, sequence)
    return run_record(
        record.key,
        cast(RunContent, event.content),
        epoch=epoch,
        sequence=sequence,
        writer=envelope.writer,
        time=envelope.time,
        causes=tuple(ids.get(cause, cause) for cause in envelope.causes),
    )
