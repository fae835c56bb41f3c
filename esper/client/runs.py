"""Runs as a program reads them: what ``esper.connect`` gives, and what the commands that read are made of.

Nothing here imports torch; ClickHouse is started when something is asked in SQL.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from esper.client.reading import existing, history, holding, run_ids, state_at
from esper.errors import EsperError, RunNotFound, UsageError
from esper.events import Event
from esper.events.runs import BoundaryReached, CheckpointCommitted, DecisionMade, MetricsLogged, RunStarted
from esper.events.topics import ASSETS
from esper.extras import naming_extras
from esper.log.ordering import once
from esper.log.port import Log
from esper.settings import Settings, log_url
from esper.tamiyo.advice import Finding, advise, course_of
from esper.tamiyo.proof.differences import Differences, differences
from esper.tamiyo.proof.why import Step, explain
from esper.tamiyo.run.fold import fold
from esper.tamiyo.run.state import RunState, SeedState, settings_of

if TYPE_CHECKING:
    import pyarrow


def connect(home: str | Path = ".esper", log: str | None = None) -> Connection:
    """The runs of the folder ``home``, or of the log that ``log`` names (its URL); reading makes no files."""
    return Connection(str(home), log or log_url(home))


class Connection:
    """A log's runs. A context manager; ``close`` ends it. May be used from one thread at a time."""

    def __init__(self, home: str, url: str) -> None:
        self.home, self.url = home, url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the log; what was read of runs stays."""
        if "log" in vars(self) and self.log is not None:
            self.log.close()
            del vars(self)["log"]

    @cached_property
    def log(self) -> Log | None:
        """The log; None where it is a file that is not there yet."""
        return existing(self.url)

    def runs(self) -> list[RunRecord]:
        """All runs, the one begun first at the front. Nothing of a run is read before it is asked for."""
        log = self.log
        return [] if log is None else [RunRecord(self, run_id) for run_id in run_ids(log)]

    def run(self, run_id: str) -> RunRecord:
        """Raises RunNotFound, naming the one that is most like it."""
        holding(self.log, self.url, run_id)
        return RunRecord(self, run_id)

    def search_runs(
        self,
        *,
        status: str | None = None,
        tag: str | None = None,
        name: str | None = None,
        params: Mapping[str, Any] | None = None,
        where: Callable[[RunRecord], bool] | None = None,
    ) -> list[RunRecord]:
        """The runs that have all of these: a status, a tag, a text within the name, values of params; ``where`` decides
        about the rest. Runs that cannot be read are left out."""
        found = []
        for run in self.runs():
            try:
                fits = (
                    (status is None or run.status == status)
                    and (tag is None or tag in run.tags)
                    and (name is None or name in (run.name or ""))
                    and all(key in run.params and run.params[key] == value for key, value in (params or {}).items())
                    and (where is None or where(run))
                )
            except (EsperError, ValueError):
                continue
            if fits:
                found.append(run)
        return found

    def compare(self, *run_ids: str) -> Differences:
        """What is different between runs, as far as the log says. Raises RunNotFound."""
        records = [self.run(run_id) for run_id in run_ids]
        if len(records) < 2:
            raise UsageError("name two runs at least to compare")
        return differences([(record.started, record.state()) for record in records])

    def sql(self, query: str, **parameters: object) -> pyarrow.Table:
        """What ClickHouse answers about everything on the log, as an Arrow table (``.to_pandas()`` makes it pandas').

        ``{name:Type}`` in ``query`` stands for the parameter ``name``. The database is brought up to the log's end
        first. Raises UsageError for what is not allowed, AnalyticsError with ClickHouse's own words.
        """
        with naming_extras():
            import pyarrow

        from esper.nissa.embedded.database import Embedded, analytics_url

        given = {name: str(value) for name, value in parameters.items()}
        with Embedded(analytics_url(self.home), lambda: existing(self.url)) as database:
            answer = database.answer(query, given, "arrow")
        return pyarrow.ipc.open_file(pyarrow.BufferReader(answer)).read_all()


class RunRecord:
    """One run, read when something of it is asked for, and then kept: ``refresh`` reads it anew."""

    def __init__(self, connection: Connection, run_id: str) -> None:
        self.run_id = run_id
        self._connection = connection

    def __repr__(self) -> str:
        return f"RunRecord({self.run_id!r})"

    def refresh(self) -> Self:
        """Forget what was read: the run may have gone on."""
        for name in ("_now", "_events", "started"):
            vars(self).pop(name, None)
        return self

    @cached_property
    def _events(self) -> list[Event]:
        log = self._connection.log
        return [] if log is None else [event for _, event in history(log, self.run_id)]

    @cached_property
    def _now(self) -> RunState:
        return fold(RunState(self.run_id), self._events)

    @cached_property
    def started(self) -> RunStarted:
        """The run's first event: all that it was begun with."""
        first = self._events[0].content if self._events else None
        if not isinstance(first, RunStarted):
            raise RunNotFound(f"there is no run {self.run_id} in {self._connection.url}")
        return first

    @property
    def name(self) -> str | None:
        """What people call the run; None if nobody has given it a name."""
        return self._now.name

    @property
    def status(self) -> str:
        """running, paused, completed, failed or cancelled."""
        return self._now.status

    @property
    def params(self) -> dict[str, Any]:
        """The hyper-parameters that ``esper.start(params=...)`` was given."""
        return dict(json.loads(self._now.params or "{}"))

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags that people gave it, without those taken away again."""
        return self._now.tags

    @property
    def notes(self) -> str | None:
        """What people wrote about it; None if nobody has."""
        return self._now.notes

    @property
    def settings(self) -> Settings:
        """The settings that it was begun with. Raises RunUnusable for those that this version cannot read."""
        return settings_of(self._now)

    @property
    def begun(self) -> datetime | None:
        """When its first event was written, by its writer's clock."""
        return self._events[0].envelope.time if self._events else None

    @property
    def summary(self) -> dict[str, Any]:
        """Status, steps, training loss, test, seeds by stage, and the last value of each metric."""
        return self._now.summary() | {
            "name": self.name,
            "test": dict(self._now.test),
            "metrics": {name: metric.value for name, metric in self._now.metrics.items()},
        }

    @property
    def seeds(self) -> tuple[SeedState, ...]:
        """All growth attempts: their transitions with the gates' evidence, and their trials."""
        return tuple(self._now.seeds.values())

    @property
    def decisions(self) -> list[DecisionMade]:
        """What the policy chose at each boundary, waits included, with its alternatives and reasons."""
        return [event.content for event in self._events if isinstance(event.content, DecisionMade)]

    @property
    def checkpoints(self) -> tuple[CheckpointCommitted, ...]:
        """Those that are there, which ``esper.load`` takes, oldest first."""
        return self._now.checkpoints

    def state(self, at: int | str | None = None) -> RunState:
        """The folded run: now, or as it was when step ``at`` was done, or after the event ``"#SEQUENCE"``.

        Raises UsageError for a place that the run does not have.
        """
        if at is None:
            return self._now
        place = str(at)
        number = place.removeprefix("#")
        if not number.isdecimal():
            raise UsageError(f'at={at!r} is no place in a run; give a step, or "#" and the number of an event')
        return state_at(self.run_id, self._events, **{"sequence" if "#" in place else "step": int(number)})

    def events(self, type: type | str | None = None) -> Iterator[Event]:
        """Its events in order, all or those of one type (its class, or its name such as "SeedTransitioned")."""
        for event in self._events:
            if type is None or type in (event.content.__class__, event.content.__class__.__name__):
                yield event

    def why(self, seed: str) -> list[Step]:
        """A seed's chain of causes: measurements, decision, kernel, gates, outcome. Raises UsageError."""
        log = self._connection.log
        assets = [] if log is None else [event for _, event in once(log.read(ASSETS))]
        return explain(self._events, seed, assets)

    def advice(self) -> tuple[Finding, ...]:
        """Why it grew or did not, and what to change: findings with their numbers, the most telling first."""
        return advise(self._now, course_of(self._events))

    def history(self, metrics: Sequence[str] | None = None, at: int | str | None = None) -> pyarrow.Table:
        """What was measured over the steps, a row a step, as an Arrow table: ``step`` [int64] and a column of float64
        for each metric, null where it was not measured.

        ``loss`` (the mean training loss since the boundary before) and ``learning_rate`` are of boundaries, the others
        what ``run.log`` was given, under the prefix ``logged/`` where they bear one of these three names. ``metrics``
        chooses and orders the columns; ``at`` ends it as ``state`` does. Raises UsageError for an unknown metric.
        """
        with naming_extras():
            import pyarrow

        last = self.state(at).sequence
        columns: dict[str, dict[int, float]] = {}
        for event in self._events[:last]:
            for step, name, value in _measured(event.content):
                columns.setdefault(name, {})[step] = value
        unknown = [name for name in metrics or () if name not in columns]
        if unknown:
            raise UsageError(f"run {self.run_id} has no metric {unknown[0]!r}; it has {', '.join(columns) or 'none'}")
        chosen = {name: columns[name] for name in (metrics if metrics is not None else columns)}
        steps = sorted({step for values in chosen.values() for step in values})
        arrays = {name: pyarrow.array([values.get(s) for s in steps], "float64") for name, values in chosen.items()}
        return pyarrow.table({"step": pyarrow.array(steps, "int64"), **arrays})

    def sql(self, query: str, **parameters: object) -> pyarrow.Table:
        """As ``Connection.sql``, where ``{run:String}`` is this run."""
        return self._connection.sql(query, **{"run": self.run_id, **parameters})


def _measured(content: object) -> Iterator[tuple[int, str, float]]:
    """(step, metric, value)."""
    if isinstance(content, BoundaryReached):
        yield content.step, "loss", content.loss
        yield content.step, "learning_rate", content.learning_rate
    elif isinstance(content, MetricsLogged):
        for metric, step, value in zip(content.metrics, content.steps, content.values, strict=True):
            name = content.names[metric]
            yield step, f"logged/{name}" if name in ("step", "loss", "learning_rate") else name, value
