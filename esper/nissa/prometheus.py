"""Measurements of trainers and sinks, as Prometheus reads them: only where asked for, and made when they are read."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from esper.errors import UsageError
from esper.extras import naming_extras
from esper.kasmina.seed.stages import Stage
from esper.nissa.sink.process import SinkProgress
from esper.system.hosts import REFUSED, is_loopback, is_own
from esper.tamiyo.run.state import RunState

with naming_extras():
    from prometheus_client import CollectorRegistry, make_wsgi_app
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.exposition import ThreadingWSGIServer
    from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

logger = logging.getLogger("esper")
Measure = Callable[[], Iterable[Metric]]


@contextmanager
def serving(address: str, measure: Measure) -> Iterator[str]:
    """Serve what ``measure`` gives at ``[HOST:]PORT`` (loopback unless it names another), under ``/metrics``; its URL.

    Raises UsageError for an address that cannot be used.
    """
    host, port = _parsed(address)
    registry = CollectorRegistry()
    registry.register(_Measured(measure))
    kind, answer = _Server6 if ":" in host else _Server, _for_its_own(host, make_wsgi_app(registry))
    try:
        server = make_server(host, port, answer, kind, _Quiet)
    except OSError as error:
        raise UsageError(
            f"--metrics {address}: it cannot be served at ({error.strerror}); name another port"
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def of_run(state: RunState, step: int, committed: int, dropped: int) -> Iterator[Metric]:
    """The metrics of a trainer: ``step`` is the last one done, ``committed`` the events on the log, ``dropped`` the
    measurements that the log was too slow for."""
    yield GaugeMetricFamily("esper_trainer_step", "Steps done, those before a resume included", step)
    yield GaugeMetricFamily("esper_trainer_epoch", "Pass over the data, from 0", state.epoch)
    yield GaugeMetricFamily(
        "esper_trainer_loss", "Mean training loss between the last two boundaries", _number(state.loss)
    )
    yield GaugeMetricFamily(
        "esper_trainer_learning_rate", "Learning rate at the last boundary", _number(state.learning_rate)
    )
    yield GaugeMetricFamily("esper_trainer_attempt", "From 1; one more with each resume and rollback", state.attempt)
    yield GaugeMetricFamily("esper_trainer_writer_epoch", "Fencing epoch of the run's writer", state.writer_epoch)
    yield CounterMetricFamily("esper_trainer_events", "Events of the run that are committed", committed)
    yield GaugeMetricFamily(
        "esper_trainer_events_waiting", "Events that wait to be committed", max(state.sequence - committed, 0)
    )
    yield CounterMetricFamily("esper_trainer_decisions", "Decisions made", state.decisions)
    yield CounterMetricFamily("esper_trainer_verdicts", "Verdicts asked of the gate", state.verdicts)
    yield CounterMetricFamily(
        "esper_trainer_rollbacks", "Returns to a checkpoint after a loss that was not finite", len(state.rollbacks)
    )
    yield CounterMetricFamily("esper_trainer_alerts", "Alerts raised", state.alerts)
    yield GaugeMetricFamily("esper_trainer_checkpoints", "Checkpoints that are kept", len(state.checkpoints))
    yield CounterMetricFamily(
        "esper_trainer_measurements_dropped", "Measurements that the log was too slow for", dropped
    )
    seeds = GaugeMetricFamily("esper_trainer_seeds", "Seeds by stage", labels=["stage"])
    stages = state.stages()
    for stage in Stage:
        if stage is not Stage.DORMANT:
            seeds.add_metric([stage.value], stages.get(stage.value, 0))
    yield seeds


def of_sink(progress: SinkProgress, behind: dict[str, int]) -> Iterator[Metric]:
    """The metrics of a sink: ``behind`` is by how many offsets it is behind the log's end, by topic."""
    yield CounterMetricFamily("esper_sink_records", "Records written to ClickHouse", progress.records)
    yield CounterMetricFamily(
        "esper_sink_failures", "Times that the log or ClickHouse was in trouble", progress.failures
    )
    yield GaugeMetricFamily("esper_sink_waiting", "1 while it waits for either", int(bool(progress.trouble)))
    yield GaugeMetricFamily(
        "esper_sink_probing",
        "1 while it failed so often in a row that it only asks whether that has passed",
        int(progress.probing),
    )
    yield GaugeMetricFamily(
        "esper_sink_caught_up_timestamp_seconds", "When it last had all, s since 1970", progress.caught_up
    )
    lag = GaugeMetricFamily("esper_sink_lag", "Offsets behind the log's end, holes included", labels=["topic"])
    for topic, offsets in behind.items():
        lag.add_metric([topic], offsets)
    yield lag


def _for_its_own(host: str, app: WSGIApplication) -> WSGIApplication:
    """``app`` for those who call it by a name of its own: see ``esper.system.hosts``."""

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if is_own(environ.get("HTTP_HOST"), host):
            return app(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{REFUSED}\n".encode()]

    return answer


class _Server(ThreadingWSGIServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asked is gone, or speaks no HTTP: nothing for a trainer's terminal."""
        logger.debug("a question for measurements could not be read", exc_info=True)


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Questions are no news."""


class _Measured(Collector):
    def __init__(self, measure: Measure) -> None:
        self._measure = measure

    def collect(self) -> Iterable[Metric]:
        return self._measure()

    def describe(self) -> Iterable[Metric]:
        return ()  # or registering would measure


def _parsed(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not port.isdigit() or not 0 <= int(port) <= 65535:
        raise UsageError(f"--metrics {address}: write it as [HOST:]PORT")
    host = host or "127.0.0.1"
    if not is_loopback(host):
        raise UsageError(f"--metrics {address}: it is served without a password, so on loopback only; use a proxy")
    return host, int(port)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
