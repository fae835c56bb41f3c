"""The topics of a log, as a table: whoever needs to know something of a topic reads it here.

Kafka's configuration and rights, the registration of schemas, what ``esper check`` reads and what the sink fills
follow from the rows. A new topic is a row; an event type on a topic that is there is not even that: it is found among
the topic's contents, in ``esper.events``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from esper.events import AssetContent, DeadLetterContent, ExclusionContent, RunContent, SignalContent, TelemetryContent

RUNS, SIGNALS, ASSETS, TELEMETRY = "esper.runs", "esper.signals", "esper.assets", "esper.telemetry"
EXCLUSIONS, POLICIES, INDEX, DEADLETTER = "esper.exclusions", "esper.policies", "esper.run-index", "esper.deadletter"
PARTITIONS = 12
"""Of each topic, and fixed for life: a key's partition follows from it."""
ROLES = ("trainer", "worker", "sink", "operator", "arbiter")
"""Kinds of users: who trains; who keeps the views; who fills the analytics; who gives commands and mends; and who may
take records out of runs."""
_R, _W, _RW = ("READ",), ("WRITE",), ("READ", "WRITE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """A topic of the log.

    ``days`` is how long a record is kept, None for ever; of a ``compacted`` topic only the newest record of each key
    is. ``contents`` are the classes of its events, none where it holds none. ``rights`` gives the operations that each
    role needs. ``tables`` are those of ClickHouse that its events fill, the one last that says what is done. A ``late``
    topic is one that a log made by an older version does not have: it is read as if it were empty.
    """

    name: str
    key: str
    holds: str
    contents: tuple[type, ...] = ()
    days: int | None = None
    compacted: bool = False
    rights: dict[str, tuple[str, ...]]
    view: str = ""
    tables: tuple[str, ...] = ()
    late: bool = False


_TABLE = (
    Topic(
        name=RUNS,
        key="run",
        holds="everything that changes a run, in order",
        contents=get_args(RunContent),
        rights={"trainer": _RW, "worker": _R, "sink": _R, "operator": _R, "arbiter": _R},
        view="the run's state (esper.tamiyo.run.fold) and view",
        tables=(
            "runs",
            "run_ends",
            "attempt_starts",
            "boundaries",
            "site_health",
            "sites",
            "seed_transitions",
            "gates",
            "trials",
            "decisions",
            "checkpoints",
            "resumes",
            "rollbacks",
            "descriptions",
            "metrics",
            "events",
        ),
    ),
    Topic(
        name=SIGNALS,
        key="run",
        holds="what others ask of a run, and alerts about it",
        contents=get_args(SignalContent),
        days=90,
        rights={"trainer": _R, "worker": _RW, "sink": _R, "operator": _RW},
        view="the alert view",
        tables=("events",),
    ),
    Topic(
        name=ASSETS,
        key="blueprint",
        holds="blueprints and compiled kernels",
        contents=get_args(AssetContent),
        rights={"trainer": _RW, "worker": _RW, "sink": _R, "operator": _R},
        view="the library (esper.urza.library) and the asset view",
        tables=("kernels", "kernel_gates", "blueprints", "events"),
    ),
    Topic(
        name=TELEMETRY,
        key="run",
        holds="measurements of steps, in batches",
        contents=(TelemetryContent,),
        days=7,
        rights={"trainer": _W, "sink": _R, "operator": _R},
        tables=("telemetry", "telemetry_batches"),
    ),
    Topic(
        name=EXCLUSIONS,
        key="run",
        holds="what operators took out of runs",
        contents=(ExclusionContent,),
        rights={"trainer": _R, "worker": _R, "sink": _R, "operator": _R, "arbiter": _RW},
        view="what every reader of a run leaves out (esper.log.exclusions)",
        late=True,
    ),
    Topic(
        name=POLICIES,
        key="policy",
        holds="nothing yet: kept for policies as data",
        rights={"trainer": _R, "worker": _R, "operator": _RW},
    ),
    Topic(
        name=INDEX,
        key="run",
        holds="each run's newest writer, and hints where its events begin",
        compacted=True,
        rights={"trainer": _RW, "worker": _R, "sink": _R, "operator": _R, "arbiter": _R},
    ),
    Topic(  # the last: reading the others may make some
        name=DEADLETTER,
        key="run, or the record's place",
        holds="names of records that could not be read, and what became of them",
        contents=get_args(DeadLetterContent),
        days=30,
        rights=dict.fromkeys(ROLES, _RW),
        view="esper dlq list",
        tables=("events",),
    ),
)
TOPICS: dict[str, Topic] = {topic.name: topic for topic in _TABLE}
EVENTS: tuple[str, ...] = tuple(topic.name for topic in _TABLE if topic.contents)
"""The topics that hold events."""
ANALYSED: tuple[str, ...] = tuple(topic.name for topic in _TABLE if topic.tables)
"""The topics that ClickHouse holds."""
