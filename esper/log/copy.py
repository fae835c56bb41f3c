"""Copying a run from one log to another: bodies and headers stay as they are, so its digests do too.

The events go last, in order. So a copy that is cut short is continued by the next one after the last event there,
and a run whose events are all there is whole. What is in the destination already must be the beginning of the same
run: a trainer that has it there writes RunStarted or RunResumed before anything else, so a run that lives there, or
has lived there since it was copied, is refused. One that was opened there a moment ago and has written nothing yet is
fenced, and its trainer says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest

from esper.errors import DecodeError, LogError, RunExists, RunNotFound, SequenceConflict, WriterLost
from esper.events import Event
from esper.events.assets import BlueprintRegistered, KernelCompiled, KernelEvaluated, KernelRejected, KernelRequested
from esper.events.ids import kernel_seed
from esper.events.runs import DecisionMade, RunStarted, SeedTransitioned
from esper.events.topics import ASSETS, RUNS, SIGNALS
from esper.log.claims import follow_on
from esper.log.exclusions import Passed, noting, order_of, run_events
from esper.log.ordering import Order
from esper.log.port import Log, Record
from esper.log.records import event_of

BATCH_RECORDS, BATCH_BYTES = 500, 4 << 20
"""What one transaction holds, at most (but for one record)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """What a copy wrote; ``there`` are the events that were in the destination before, ``passed`` the records under the
    run's key in the source that are none of its events."""

    run_id: str
    events: int
    there: int
    signals: int
    assets: int
    passed: tuple[Passed, ...] = ()


@dataclass(slots=True)
class _Survey:
    """What the source holds of a run: how far it goes and what it refers to."""

    sequence: int = 0
    epoch: int = 0
    seed: int = 0
    blueprints: set[str] = field(default_factory=set)
    kernels: set[str] = field(default_factory=set)
    seeds: set[str] = field(default_factory=set)

    def note(self, event: Event) -> None:
        self.sequence += 1
        self.epoch = max(self.epoch, event.envelope.epoch or 0)
        match event.content:
            case RunStarted() as started:
                self.seed = started.seed
                self.blueprints.update(started.sites.blueprints)
            case DecisionMade(seed=str(seed), blueprint=str(blueprint)):
                self.blueprints.add(blueprint)
                self.seeds.add(seed)
            case SeedTransitioned() as moved:
                self.blueprints.add(moved.blueprint)
                self.kernels.add(moved.kernel)
            case _:
                pass

    def refers_to(self, event: Event, numbers: set[int]) -> bool:
        """Whether an asset's event is about a blueprint or kernel of the run; ``numbers`` are its kernels' seeds."""
        match event.content:
            case BlueprintRegistered():
                return True
            case KernelCompiled(kernel=kernel) | KernelEvaluated(kernel=kernel):
                return kernel in self.kernels
            case KernelRequested(seed=number) | KernelRejected(seed=number):
                return number in numbers
            case _:
                return False


def copy_run(source: Log, destination: Log, run_id: str) -> Copied:
    """Copy a run, its signals and the blueprints and kernels that it refers to, as far as they are not there yet.

    Raises RunNotFound, RunExists if the destination holds another run of that name or one that has gone on there,
    SequenceGap if the source's cannot be read to its end, Fenced if a trainer resumes it there meanwhile.
    """
    survey, passed = _Survey(), list[Passed]()
    order = order_of(destination, run_id)
    there = _compare(source, destination, order, run_id, survey, passed)
    assets = _send(destination, _missing_assets(source, destination, survey))
    signals = _send(destination, _missing_signals(source, destination, run_id))
    if there < survey.sequence:
        writer = destination.open_writer(run_id, copied=survey.epoch)
        try:
            follow_on(destination, writer, order)
            for batch in _batches(_events(source, run_id, there, survey.sequence)):
                writer.append(batch)
        except SequenceConflict as error:
            raise RunExists(_LIVE.format(run_id=run_id, url=destination.url, sequence=there + 1)) from error
        except WriterLost as error:
            raise LogError(
                f"run {run_id}: its copy was cut short; copy it again, it goes on there ({error})"
            ) from error
        finally:
            writer.close()
    events = survey.sequence - there
    return Copied(run_id=run_id, events=events, there=there, signals=signals, assets=assets, passed=tuple(passed))


_LIVE = (
    "run {run_id} in {url} is not a copy: event {sequence} is another, or the source has none; a trainer has it "
    "there, or had. Copy it to another log, or another /PREFIX"
)


def _compare(source: Log, destination: Log, order: Order, run_id: str, survey: _Survey, passed: list[Passed]) -> int:
    """How many events of the run are in the destination, which must be the source's first ones."""
    there = 0
    theirs = order.over(destination.read(RUNS, key=run_id))
    for ours, their in zip_longest(run_events(source, run_id, unreadable=noting(passed)), theirs):
        if ours is not None:
            survey.note(ours[1])
        if their is None:
            continue
        if ours is None or _bytes(ours[0].record) != _bytes(their[0].record):
            raise RunExists(_LIVE.format(run_id=run_id, url=destination.url, sequence=there + 1))
        there += 1
    if not survey.sequence:
        raise RunNotFound(f"there is no run {run_id!r} in {source.url}; `esper runs --log URL` lists those that are")
    return there


def _events(source: Log, run_id: str, after: int, last: int) -> Iterator[Record]:
    for entry, event in run_events(source, run_id):
        if after < (event.envelope.sequence or 0) <= last:
            yield entry.record


def _missing_signals(source: Log, destination: Log, run_id: str) -> Iterator[Record]:
    """Signals that are not in the destination, those that cannot be read included if their schema came with them."""
    known = {_bytes(entry.record) for entry in destination.read(SIGNALS, key=run_id)}
    for entry in source.read(SIGNALS, key=run_id):
        if entry.error is None and _bytes(entry.record) not in known:
            known.add(_bytes(entry.record))
            yield entry.record


def _missing_assets(source: Log, destination: Log, survey: _Survey) -> Iterator[Record]:
    """Assets of the run that are not in the destination: an asset's id is that of its content, whoever wrote it."""
    numbers = {kernel_seed(survey.seed, seed) for seed in survey.seeds}
    for blueprint in sorted(survey.blueprints):
        known = {event.envelope.id for _, event in _assets(destination, blueprint)}
        for record, event in _assets(source, blueprint):
            if event.envelope.id not in known and survey.refers_to(event, numbers):
                known.add(event.envelope.id)
                yield record


def _assets(log: Log, blueprint: str) -> Iterator[tuple[Record, Event]]:
    for entry in log.read(ASSETS, key=blueprint):
        try:
            yield entry.record, event_of(entry)
        except DecodeError:  # assets have no gap rule: one that cannot be read is nothing that the run refers to
            continue


def _send(destination: Log, records: Iterable[Record]) -> int:
    sent = 0
    for record in records:
        destination.signal(record)
        sent += 1
    return sent


def _batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    batch: list[Record] = []
    size = 0
    for record in records:
        batch.append(record)
        size += len(record.value)
        if len(batch) == BATCH_RECORDS or size > BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _bytes(record: Record) -> tuple[str, bytes]:
    return record.schema.fingerprint, record.value
