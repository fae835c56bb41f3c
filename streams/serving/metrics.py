"""A worker's measurements, as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from streams.serving.served import Served

CONTENT_TYPE = CONTENT_TYPE_LATEST


def text(app: Served) -> bytes:
    """All measurements now."""
    registry = CollectorRegistry()
    registry.register(_Measured(app))
    return generate_latest(registry)


class _Measured(Collector):
    def __init__(self, app: Served) -> None:
        self._app = app

    def collect(self) -> Iterator[Metric]:
        app = self._app
        yield CounterMetricFamily("esper_worker_records", "Records of esper.runs taken", app.runs.records)
        yield CounterMetricFamily("esper_worker_events", "Events of runs folded into views", app.runs.events)
        yield CounterMetricFamily("esper_worker_proposals", "Decisions proposed", app.decisions.sent)
        yield CounterMetricFamily("esper_worker_rebalances", "Rebalances of the group", app.rebalances)
        yield GaugeMetricFamily("esper_worker_ready", "1 while /ready says so", int(not app.waits_for()))
        yield GaugeMetricFamily("esper_worker_generation", "Generation of the views", app.generation.number)
        yield GaugeMetricFamily("esper_worker_partitions", "Partitions held", len(app.partitions()))
        yield GaugeMetricFamily(
            "esper_worker_in_flight", "Events whose changes are being written", app.progress.in_flight()
        )
        lag = GaugeMetricFamily("esper_worker_lag", "Records behind, markers included", labels=["topic", "partition"])
        for topic, partition, behind in app.lag():
            lag.add_metric([topic, str(partition)], behind)
        yield lag
