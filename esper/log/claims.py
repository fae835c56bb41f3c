"""Compares the number of events that a log has counted of a run with those that can be read: are any missing or
added?"""

from __future__ import annotations

from esper.errors import LogError, LogRefused, SequenceConflict, SequenceGap
from esper.log.ordering import LEAP, Order
from esper.log.port import Counted, Log, Writer


def follow_on(log: Log, writer: Writer, order: Order) -> None:
    """Let ``writer`` go on where ``order`` has come to the end of its run. What the log counts beyond that are records
    that are none of its events.

    Raises SequenceGap if they could be, SequenceConflict where the log counts less, LogRefused where it counts epochs
    that no writer can have come to: what this one writes would be no event of the run.
    """
    last = order.mark.sequence
    beyond = order.claimed if log.counted(writer.run_id) is None else order.left
    wrong = miscounted(writer.run_id, Counted(writer.epoch, writer.sequence), order, beyond)
    if wrong is not None:
        raise wrong
    if writer.sequence > last:
        writer.follow(last)


def miscounted(run_id: str, counted: Counted, order: Order, beyond: int) -> LogError | None:
    """What is wrong with what is ``counted`` of a run, of which ``order`` has come to the end; None if nothing is.
    Records that are none of its events may be counted as events up to number ``beyond``."""
    mark, last = order.mark, order.mark.sequence
    if counted.sequence < last:
        place = order.at(counted.sequence + 1)
        return SequenceConflict(
            f"run {run_id}: its writers have written {counted.sequence} events by the log's count, but {last} are "
            f"there: either event {counted.sequence + 1} at {place} is no trainer's, then `esper dlq exclude {place} "
            "--why TEXT` takes it out, and all that follows; or the count was changed, then copy the run to a new log",
            place,
        )
    if not mark.epoch <= counted.epoch <= mark.epoch + LEAP:
        return LogRefused(
            f"run {run_id}: the log counts {counted.epoch} writers, but its last event is of epoch {mark.epoch}: the "
            "count was changed; copy the run to a new log, which counts anew"
        )
    if counted.sequence > max(last, beyond):
        return SequenceGap(
            f"run {run_id}: event {last + 1} is missing, though the log counts {counted.sequence}; "
            "copy the run to a new log from one that has it whole"
        )
    return None
