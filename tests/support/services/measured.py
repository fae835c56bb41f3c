"""What trainers, sinks and workers serve to Prometheus, without any of them running."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen

from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from esper.nissa.prometheus import Measure, of_run, of_sink, serving
from esper.nissa.sink.process import SinkProgress
from esper.tamiyo.run.state import RunState


@dataclass(frozen=True)
class Served:
    """``text`` is what Prometheus gets of ``whom``."""

    whom: str
    text: bytes

    @property
    def families(self) -> list[Metric]:
        return list(text_string_to_metric_families(self.text.decode()))

    @property
    def series(self) -> dict[str, Metric]:
        """Series by name, without labels; a counter's ends in ``_total``."""
        return {each.name + ("_total" if each.type == "counter" else ""): each for each in self.families}


def served() -> Iterator[Served]:
    """A trainer's, a worker's and a sink's, with a value for each of their series."""
    yield Served("trainer", _asked(lambda: of_run(RunState("run"), 1, 0, 0)))
    yield Served("worker", _worker())
    yield Served("sink", _asked(lambda: of_sink(SinkProgress(), {"esper.runs": 1})))


def _asked(measure: Measure) -> bytes:
    with serving("0", measure) as url, urlopen(url) as answer:
        return bytes(answer.read())


def _worker() -> bytes:
    from streams.serving.metrics import text

    app: Any = SimpleNamespace(
        runs=SimpleNamespace(records=1, events=1),
        decisions=SimpleNamespace(sent=0),
        rebalances=1,
        waits_for=lambda: "",
        generation=SimpleNamespace(number=1),
        partitions=lambda: [0],
        progress=SimpleNamespace(in_flight=lambda: 0),
        lag=lambda: [("esper.runs", 0, 3)],
    )
    return text(app)
