"""The run view: a run as small pieces under keys that begin with its name, each kept up to date by the run's events.

``RUN`` is the head; ``RUN/seed/SEED`` (with ``/transitions/N`` and ``/trials/N``), ``RUN/decision/SEQUENCE``,
``RUN/rejection/SEQUENCE``, ``RUN/alert/SEQUENCE``, ``RUN/sites/N``, ``RUN/health/N``, ``RUN/checkpoints`` and
``RUN/settings`` hold the rest. However large the run, a piece stays below LARGEST. Each carries the sequence number
of the event that it was last changed by, the digest of the whole state at that event, the link behind it and the number
of the fold that made it, so any of them can be checked against a fold and the log. Pure: what is read, kept and sent is
its host's affair.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from esper.errors import DecodeError, Quarantined, SequenceConflict, SequenceGap
from esper.events import Event, runs, signals
from esper.events.encoding.codec import jsonable
from esper.kasmina.seed.stages import IllegalMove
from esper.log.ordering import Excluded, Order
from esper.log.port import Entry
from esper.tamiyo.run.fold import apply
from esper.tamiyo.run.state import FOLD, MEASUREMENTS, RunState, SeedState

LARGEST = 64 * 1024
"""Bytes of a piece, which every one stays below."""
CHUNK = 64  # sites, trials or checkpoints in one piece
TRANSITIONS = 8  # of a seed in one piece; each may bring its evidence
LIKELIEST = 40  # alternatives of a decision that its piece names; the log has them all
LONGEST = 500  # characters of one text

Changes = dict[str, Any]
"""What an event changed: pieces' states by the rest of their key (empty: the head), None for what is gone."""
Pieces = dict[str, bytes | None]
"""What to keep, by key, the head last; None: nothing any more."""


class RunView:
    """One run's view, an entry of ``esper.runs`` at a time.

    A run whose next event is missing or cannot be read takes no more: ``trouble`` then says why and where, and so
    does its head. ``unreadable`` is told of each record that is passed over, ``excluded``
    are records that do not count.
    """

    def __init__(
        self,
        run_id: str,
        unreadable: Callable[[Entry, DecodeError], None],
        excluded: Excluded = frozenset(),
    ) -> None:
        self.state = RunState(run_id)
        self.trouble: dict[str, Any] | None = None
        self._unreadable, self._unread = unreadable, False
        self._order = Order(excluded=excluded, unreadable=self._note)

    def take(self, entry: Entry) -> tuple[Event | None, Pieces]:
        """The event in ``entry``, if it is the run's next, and the pieces that it changed."""
        if self.trouble is not None:
            return None, {}
        before = self.state
        self._unread = False
        try:
            event = self._order.take(entry)
            if self._unread:
                self._order.end()
            if event is None:
                return None, {}
            self.state = apply(before, event)
        except (SequenceGap, SequenceConflict, IllegalMove) as error:
            self.trouble = _trouble(error, entry, before.sequence + 1)
            return None, pieces(before, {}, self.trouble, self._link)
        return event, pieces(self.state, changes(before, self.state, event), None, self._link)

    @property
    def _link(self) -> str | None:
        link = self._order.mark.link
        return None if link is None else link.hex()

    def _note(self, entry: Entry, error: DecodeError) -> None:
        self._unread = True
        self._unreadable(entry, error)


def pieces(state: RunState, changed: Changes, trouble: dict[str, Any] | None, link: str | None = None) -> Pieces:
    """The pieces of ``changed`` as they are kept, and the head; ``link`` is that behind the state's last event."""
    digest, sequence = state.digest_of_state(), state.sequence
    kept: Pieces = {}
    for place, value in {**changed, "": head(state, trouble)}.items():
        key = f"{state.run_id}/{place}" if place else state.run_id
        kept[key] = (
            None
            if value is None
            else packed({"sequence": sequence, "digest": digest, "link": link, "fold": FOLD, "state": value})
        )
    return kept


def packed(piece: Any) -> bytes:
    """A piece of plain values as bytes: sorted, so that equal pieces are equal bytes."""
    return json.dumps(piece, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def unpacked(value: bytes | None) -> dict[str, Any] | None:
    """The piece in ``value``; None where there is none or it is no piece of ours. Never raises."""
    try:
        piece = json.loads(value or b"null")
        whole = isinstance(piece, dict) and isinstance(piece["sequence"], int) and isinstance(piece["state"], dict)
    except (ValueError, KeyError, RecursionError):
        return None
    return piece if whole else None


def same(kept: bytes | None, fresh: bytes | None) -> bool:
    """Whether a piece that is kept is the one that was made afresh. The digest of another fold is not compared."""
    live, folded = unpacked(kept), unpacked(fresh)
    if kept == fresh or live is None or folded is None or live.get("fold") == folded.get("fold"):
        return kept == fresh
    return (live["sequence"], live["state"]) == (folded["sequence"], folded["state"])


def head(state: RunState, trouble: dict[str, Any] | None) -> dict[str, Any]:
    """The run in short."""
    task = json.loads(state.task) if state.task else None
    return {
        **state.summary(),
        "seeds": state.stages(),
        "cause": short(state.cause),
        "task": short(task.get("name")) if isinstance(task, dict) else None,
        "seed": state.seed,
        "writer_epoch": state.writer_epoch,
        "epoch": state.epoch,
        "loss": jsonable(state.loss),
        "final_loss": jsonable(state.last_loss()),
        "learning_rate": jsonable(state.learning_rate),
        "test": {short(name): jsonable(value) for name, value in list(state.test.items())[:CHUNK]},
        "parameters_digest": short(state.parameters_digest),
        "sites": len(state.sites.names) if state.sites is not None else 0,
        "decisions": state.decisions,
        "last_decision": short(state.last_decision.decision) if state.last_decision else None,
        "pending": short(state.pending.decision) if state.pending else None,
        "rejections": len(state.rejections),
        "rollbacks": list(state.rollbacks[-CHUNK:]),
        "alerts": state.alerts,
        "answered": len(state.answered),
        "environment": _clipped(state.environment),
        "quarantine": trouble,
    }


def changes(before: RunState, after: RunState, event: Event) -> Changes:
    """What ``event`` changed between two states, the head aside."""
    changed: Changes = {}
    if after.sites is not before.sites:
        changed |= _renewed("sites", _site_chunks(before), _site_chunks(after), lambda n: _sites(after, n))
        changed |= _renewed("health", _site_chunks(before), _site_chunks(after), lambda n: _health(after, n))
    elif after.measured is not before.measured and isinstance(event.content, runs.BoundaryReached):
        measured = event.content.health.site if event.content.health is not None else ()
        changed |= {f"health/{n}": _health(after, n) for n in sorted({site // CHUNK for site in measured})}
    if after.seeds is not before.seeds:
        for name in before.seeds | after.seeds:
            changed |= _seed(before.seeds.get(name), after.seeds.get(name))
    if after.checkpoints is not before.checkpoints:
        changed["checkpoints"] = {"checkpoints": _clipped(after.checkpoints[-CHUNK:])}
    if after.settings is not before.settings:
        changed["settings"] = {"settings": short(after.settings, LARGEST // 8)}
    return changed | _told(after, event)


def _told(after: RunState, event: Event) -> Changes:
    """What an event says that the state does not keep."""
    match event.content:
        case runs.DecisionMade() as made:
            state = _clipped({n: getattr(made, n) for n in made.__dataclass_fields__ if n != "alternatives"})
            likeliest = sorted(made.alternatives, key=lambda a: (-a.propensity, a.action, a.site or ""))[:LIKELIEST]
            state |= {"alternatives": len(made.alternatives), "likeliest": _clipped(likeliest)}
            return {f"decision/{after.sequence}": state}
        case runs.DecisionRejected() as rejected:
            return {f"rejection/{after.sequence}": _clipped(rejected)}
        case runs.AlertRaised() as alert:
            return {f"alert/{after.sequence}": _clipped(alert)}
    return {}


def alert_pieces(key: str, known: dict[str, Any] | None, event: Event) -> Pieces:
    """The piece of a worker's alert after ``event``, AlertRaised or AlertResolved, where ``known`` was there before:
    both count once, in whatever order."""
    state = dict(known["state"]) if known is not None else {"raised": None, "resolved": None}
    name = "raised" if isinstance(event.content, signals.AlertRaised) else "resolved"
    state[name] = state[name] or {**_clipped(event.content), "time": event.envelope.time.isoformat()}
    return {key: packed({"sequence": 0, "id": str(event.envelope.id), "state": state})}


def _site_chunks(state: RunState) -> int:
    return -(-len(state.sites.names) // CHUNK) if state.sites is not None else 0


def _renewed(name: str, old: int, new: int, state: Callable[[int], Any]) -> Changes:
    return {f"{name}/{n}": state(n) if n < new else None for n in range(max(old, new))}


def _sites(state: RunState, chunk: int) -> dict[str, Any]:
    table, part = state.sites, slice(chunk * CHUNK, (chunk + 1) * CHUNK)
    assert table is not None
    return {
        "names": [short(name, 300) for name in table.names[part]],
        "kinds": [short(kind, 60) for kind in table.kinds[part]],
        "dims": [list(dims[:8]) for dims in table.dims[part]],
        "reasons": [short(reason, LONGEST // 2) for reason in table.reasons[part]],
    }


def _health(state: RunState, chunk: int) -> dict[str, Any]:
    """For each measurement its last known values at the chunk's sites, in their order; None where none is known."""
    assert state.sites is not None
    first = chunk * CHUNK
    values: dict[str, list[Any]] = {name: [] for name in MEASUREMENTS}
    rows: dict[int, dict[int, int]] = {}  # by record: where each of its sites is
    for site, name in enumerate(state.sites.names[first : first + CHUNK], first):
        record = state.measured.get(name)
        if record is None:
            for column in values.values():
                column.append(None)
            continue
        if id(record) not in rows:
            rows[id(record)] = {number: row for row, number in enumerate(record.site)}
        row = rows[id(record)][site]
        for measurement, column in values.items():
            column.append(jsonable(getattr(record, measurement)[row]))
    return values


def _seed(before: SeedState | None, after: SeedState | None) -> Changes:
    if before is after:
        return {}
    known = before or after
    assert known is not None
    name = f"seed/{known.name}"
    moves = _chunks(f"{name}/transitions", TRANSITIONS, *(s.transitions if s else () for s in (before, after)))
    trials = _chunks(f"{name}/trials", CHUNK, *(s.trials if s else () for s in (before, after)))
    if after is None:
        return {**moves, **trials, name: None}
    state = {
        "seed": short(after.name),
        "site": short(after.site),
        "blueprint": short(after.blueprint),
        "kernel": short(after.kernel),
        "stage": after.stage.value,
        "since": after.since,
        "born": after.transitions[0].step,
        "transitions": len(after.transitions),
        "trials": len(after.trials),
        "last_trial": _clipped(after.trials[-1]) if after.trials else None,
    }
    return {**moves, **trials, name: state}


def _chunks(name: str, size: int, before: tuple[Any, ...], after: tuple[Any, ...]) -> Changes:
    """The chunks in which two lists differ."""
    changed: Changes = {}
    for n, start in enumerate(range(0, max(len(before), len(after)), size)):
        old, new = before[start : start + size], after[start : start + size]
        if old != new:
            changed[f"{name}/{n}"] = {"first": start, "items": _clipped(new)} if new else None
    return changed


def _trouble(error: Exception, entry: Entry, sequence: int) -> dict[str, Any]:
    kind = "unreadable" if isinstance(error, Quarantined) else "missing" if isinstance(error, SequenceGap) else "wrong"
    position = error.position if isinstance(error, Quarantined) else str(entry.position)
    return {"kind": kind, "event": sequence, "position": position, "error": short(str(error), 4 * LONGEST)}


def short(text: str | None, limit: int = LONGEST) -> str | None:
    """``text``, cut to ``limit`` characters of JSON."""
    if text is None or len(text) * 12 <= limit:  # however much each character needs
        return text
    while len(json.dumps(text)) > limit + 2:
        text = text[: max(min(limit, len(text) * limit // len(json.dumps(text))) - 1, 0)]
    return text


def _clipped(value: Any) -> Any:
    """``value`` as JSON with every text cut."""
    return _cut(jsonable(value))


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        return short(value)
    if isinstance(value, dict):
        return {short(key): _cut(item) for key, item in list(value.items())[:CHUNK]}
    return [_cut(item) for item in value] if isinstance(value, list) else value


def run_of(key: str) -> str:
    """The run that a piece belongs to."""
    return key.partition("/")[0]
