"""What a resume reads of its run: from the last checkpoint on where that can be done, else from the first event.

A checkpoint's files may hold the run as it was folded then. That, and where the log says the checkpoint is, are hints:
they count only where the log has the very event that the fold came to. Whatever is wrong with them, the log has it all.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from esper.artifacts.port import ArtifactStore
from esper.errors import CorruptArtifact, DecodeError, EsperError, LogError, LogRefused, SequenceConflict, SequenceGap
from esper.events import Event
from esper.events.runs import CheckpointCommitted
from esper.events.topics import RUNS
from esper.kasmina.seed.stages import IllegalMove
from esper.log.chain import Mark, digest
from esper.log.deadletter import Letter, letters, sending_to
from esper.log.exclusions import excluded, order_of
from esper.log.ordering import Order
from esper.log.port import Entry, Log, Position
from esper.log.records import event_of
from esper.tamiyo.run.fold import fold
from esper.tamiyo.run.snapshot import Folded
from esper.tamiyo.run.state import RunState, settings_of
from esper.tolaria.checkpoint.store import Checkpoints
from esper.tolaria.journal.reopening import WRITER

logger = logging.getLogger("esper")


@dataclass(frozen=True, slots=True)
class History:
    """A run as far as ``order`` has read it. ``events`` are its events from the first one on, or those behind the
    checkpoint of step ``since``; ``first`` is the number of the first that was read and checked."""

    state: RunState
    events: list[Event]
    order: Order
    since: int | None = None
    first: int = 1

    def serves(self, step: int) -> bool:
        """Whether the run can be taken up from the checkpoint of ``step`` with no more of it than this."""
        return self.since is None or step >= self.since


def begun(log: Log, run_id: str) -> bool:
    """Whether the log has an event of the run."""
    order = order_of(log, run_id, unreadable=sending_to(log, WRITER))
    return next(order.over(log.read(RUNS, key=run_id)), None) is not None


def whole(log: Log, run_id: str) -> History:
    """The run from its first event on; with no event if it is not on the log."""
    return further(log, History(RunState(run_id), [], order_of(log, run_id)))


def further(log: Log, known: History) -> History:
    """``known`` with what has come since."""
    run_id, mark = known.state.run_id, known.order.mark
    order = order_of(log, run_id, after=mark, unreadable=sending_to(log, WRITER))
    return _extended(known, order, log.read(RUNS, key=run_id, after=mark.position))


def recent(log: Log, store: ArtifactStore, run_id: str) -> History | None:
    """The run from its last checkpoint on, None where it has to be read from its first event.

    Raises LogError if the log cannot be read now.
    """
    try:
        return _recent(log, store, run_id)
    except (EsperError, IllegalMove, ValueError, LookupError, TypeError) as error:  # whatever is wrong with a hint
        if isinstance(error, LogError) and not isinstance(error, SequenceGap | SequenceConflict | LogRefused):
            raise  # the log itself cannot be read now
        logger.debug("run %s is read from its first event: %s", run_id, error)
        return None


def _recent(log: Log, store: ArtifactStore, run_id: str) -> History:
    if any(_stands_in_the_way(letter, run_id) for letter in letters(log)):
        raise CorruptArtifact("some of its records could not be read")
    if excluded(log, run_id):
        raise CorruptArtifact("records were taken out of it, perhaps before its last checkpoint")
    committed = _newest(log, run_id)
    folded = Checkpoints(store, run_id).folded(committed.manifest, committed.fold)
    if folded is None or (folded.state.run_id, folded.state.sequence) != (run_id, committed.sequence):
        raise CorruptArtifact(f"the checkpoint of step {committed.step} does not say how the run was folded")
    state = folded.state
    if settings_of(state).decision.where != "local":
        raise CorruptArtifact("which proposals were answered is in no checkpoint")
    bad: list[tuple[Entry, DecodeError]] = []
    place = Position.parse(folded.position)
    mark = Mark(state.writer_epoch, state.sequence, bytes.fromhex(folded.link), state.sequence, place)
    order = order_of(log, run_id, after=mark, unreadable=lambda *each: bad.append(each))
    known = _extended(
        History(state, [], order, committed.step, state.sequence + 1), order, _behind(log, run_id, folded)
    )
    for each in bad:  # only now: where this fails, the whole run is read and tells them
        sending_to(log, WRITER)(*each)
    return known


def _stands_in_the_way(letter: Letter, run_id: str) -> bool:
    """Whether some reader could not read that record of the run: then it may be quarantined, and must not go on."""
    content = letter.content
    return letter.outcome is None and content.key == run_id and content.source.startswith(f"{RUNS}/")


def _newest(log: Log, run_id: str) -> CheckpointCommitted:
    """The event of the run's last checkpoint."""
    place = log.checkpointed(run_id)
    entry = None if place is None else next(_from(log, run_id, place), None)
    content = None if entry is None else event_of(entry).content
    if not isinstance(content, CheckpointCommitted):
        raise CorruptArtifact("the log names no checkpoint")
    return content


def _behind(log: Log, run_id: str, folded: Folded) -> Iterator[Entry]:
    """The entries behind the event that ``folded`` came to."""
    place = Position.parse(folded.position)
    entries = _from(log, run_id, place)
    last = next(entries, None)
    same = last is not None and last.position == place and digest(last.record).hex() == folded.link
    if last is None or not same or last.record.epoch != folded.state.writer_epoch:
        raise CorruptArtifact(f"event {folded.state.sequence} is not the one that the checkpoint was folded to")
    return entries


def _from(log: Log, run_id: str, place: Position) -> Iterator[Entry]:
    """The run's entries from ``place`` on."""
    return iter(log.read(RUNS, key=run_id, after=replace(place, offset=place.offset - 1)))


def _extended(known: History, order: Order, entries: Iterable[Entry]) -> History:
    events = [event for _, event in order.over(entries)]
    return replace(known, state=fold(known.state, events), events=[*known.events, *events], order=order)
