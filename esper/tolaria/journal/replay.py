"""What the log already holds of the steps after a checkpoint. Replay asks nothing: it compares and applies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from esper.errors import DataMismatch, ReplayDivergence
from esper.events import Event
from esper.events.runs import BoundaryReached, RolledBack, RunResumed, SeedTransitioned
from esper.tolaria.model.digest import StateDigest


@dataclass(slots=True)
class Logged:
    """The events of one step that change the model, in order, after its boundary or rollback; the last one's sequence
    number."""

    contents: list[BoundaryReached | RolledBack | SeedTransitioned] = field(default_factory=list)
    sequence: int = 0

    @property
    def boundary(self) -> BoundaryReached | None:
        """What to compare the state with, unless the step has a rollback."""
        return next((each for each in self.contents if isinstance(each, BoundaryReached)), None)


class Replay:
    """The logged steps after ``step``; ``last`` is the last of them (0 when there is none).

    Digests are compared if ``exact``, but not those from before an inexact resume: another machine computed them.
    """

    def __init__(self, events: Iterable[Event], step: int, exact: bool = True) -> None:
        self.exact = exact
        self._elsewhere = 0  # the last step whose digest another machine computed
        self._steps: dict[int, Logged] = {}
        for event in events:
            content = event.content
            if isinstance(content, RunResumed) and content.inexact:
                self._elsewhere = max(self._steps, default=0)
            if not isinstance(content, BoundaryReached | RolledBack | SeedTransitioned) or content.step <= step:
                continue
            logged = self._steps.setdefault(content.step, Logged())
            logged.sequence = event.envelope.sequence or 0
            logged.contents.append(content)
        self.last = max(self._steps, default=0)

    def covers(self, step: int) -> bool:
        """Whether the log already says what happened at ``step``."""
        return step <= self.last

    def at(self, step: int) -> Logged | None:
        """What the log holds of ``step``; None if nothing of it changes the model."""
        return self._steps.get(step)

    def compare(self, boundary: BoundaryReached, now: StateDigest, data: str, first_data: str) -> None:
        """Raise DataMismatch or ReplayDivergence unless the state and the data are those of the log."""
        if (data, first_data) != (boundary.data, boundary.first_data):
            raise DataMismatch(
                f"step {boundary.step}: the loader gave another batch than when the step was first run; "
                "give the same data, batch size and seeds"
            )
        if self.exact and boundary.step > self._elsewhere and now.digest != boundary.digest:
            raise ReplayDivergence(
                f"step {boundary.step} run again differs from the log, first in "
                f"{now.first_difference(boundary.tensors)}; resume with the code, arguments and machine that wrote it"
            )
