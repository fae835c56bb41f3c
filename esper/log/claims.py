"""What a log counts of a run, against what can be read of it there."""

from __future__ import annotations

from esper.errors import LogRefused, SequenceConflict, SequenceGap
from esper.log.ordering import LEAP, Order
from esper.log.port import Log, Writer


def follow_on(log: Log, writer: Writer, order: Order) -> None:
    """Let ``writer`` go on where ``order`` has come to the end of its run. What the log counts beyond that are records
    that are none of its events.

    Raises SequenceGap if they could be, SequenceConflict where the log counts less, LogRefused where it counts epochs
    that no writer can have come to: what this one writes would be no event of the run.
    """
    mark, run_id = order.mark, writer.run_id
    last = mark.sequence
    if writer.epoch > mark.epoch + LEAP:
        raise LogRefused(
            f"run {run_id}: the log counts {writer.epoch} writers, but its last event is of epoch {mark.epoch}: the "
            "count was changed; copy the run to a new log, which counts anew"
        )
    if writer.sequence < last:
        place = order.at(writer.sequence + 1)
        raise SequenceConflict(
            f"run {run_id}: its writers have written {writer.sequence} events by the log's count, but {last} are "
            f"there: either event {writer.sequence + 1} at {place} is no trainer's, then `esper dlq exclude {place} "
            "--why TEXT` takes it out, and all that follows; or the count was changed, then copy the run to a new log",
            place,
        )
    counted = log.counted(run_id) is not None
    if writer.sequence > max(last, order.left if counted else order.claimed):
        raise SequenceGap(
            f"run {run_id}: event {last + 1} is missing, though the log counts {writer.sequence}; "
            "copy the run to a new log from one that has it whole"
        )
    if writer.sequence > last:
        writer.follow(last)
