"""The host's forward and backward pass, in some steps with measurements of its sites."""

from __future__ import annotations

import math
from typing import Any

from esper.events.runs import Health
from esper.kasmina.health import Probe
from esper.kasmina.losses import per_example
from esper.kasmina.sites import call_counts, with_calls
from esper.settings import BoundarySettings
from esper.tolaria.model.seeds import Seeds
from esper.tolaria.model.subject import Subject


class HostPass:
    """``run`` is one pass; ``health`` holds what the last measured one found, ``counted`` whether the calls of each
    site are known."""

    def __init__(self, subject: Subject, seeds: Seeds, settings: BoundarySettings) -> None:
        self.health: Health | None = None
        self._subject, self._seeds, self._settings = subject, seeds, settings
        self.counted = False

    def run(self, batch: Any, step: int, measure: bool) -> float:
        """Forward, and backward unless the mean loss, which is returned, is not finite.

        With ``measure`` the health of sites is taken, some at a time. The first pass of a run counts the calls
        of each site as well, and reports those that are not called once as unsupported.
        """
        if not measure:
            return self._once(batch)
        with Probe(self._seeds.sites, self._sample(step)) as probe:
            value = self._once(batch)
            if math.isfinite(value):
                probe.gradients()
        self.health = probe.result()
        return value

    def _once(self, batch: Any) -> float:
        if self.counted:
            return self._plain(batch)
        with call_counts(self._subject.model, self._seeds.sites) as counts:
            value = self._plain(batch)
        self._seeds.sites = with_calls(self._seeds.sites, counts)
        self.counted = True
        return value

    def _plain(self, batch: Any) -> float:
        loss = per_example(self._subject.loss(self._subject.model, batch)).mean()
        value = float(loss.detach())
        if math.isfinite(value):
            loss.backward()  # type: ignore[no-untyped-call]
        return value

    def _sample(self, step: int) -> list[int]:
        """The sites whose health is measured at the boundary of ``step``; they take turns."""
        supported = [index for index, site in enumerate(self._seeds.sites) if site.reason is None]
        count = min(self._settings.health_sites, len(supported))
        first = (step // self._settings.steps - 1) * count
        return sorted(supported[(first + offset) % len(supported)] for offset in range(count))
