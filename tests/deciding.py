"""Remote decisions for tests: a worker that follows a log, and a run that a test takes from boundary to boundary."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import replace
from uuid import UUID

from esper.events import Event
from esper.events.ids import signal_id
from esper.events.runs import DecisionMade, DecisionRejected
from esper.events.signals import DecisionProposed
from esper.log import open_log
from esper.log.port import RUNS, Record
from esper.log.records import event_of
from esper.tamiyo.fold import apply
from esper.tamiyo.remote import proposals, questions, signal_of
from esper.tamiyo.state import RunState, settings_of
from esper.tolaria.decisions import Remote
from esper.tolaria.inbox import Proposal
from esper.tolaria.journal import Transaction
from tests.histories import RUN, History

Tamper = Callable[[str, Event, DecisionProposed], Iterable[Record]]


class Worker:
    """Proposes for every run until ``close``. ``tamper`` makes the records that are sent for a proposal."""

    def __init__(self, url: str, tamper: Tamper | None = None) -> None:
        self._url, self._tamper = url, tamper or as_they_are
        self._stop = threading.Event()
        self.states: dict[str, RunState] = {}
        self.failed: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(timeout=10)
        assert self.failed is None, self.failed

    def _work(self) -> None:
        try:
            with closing(open_log(self._url)) as log:
                for entry in log.follow(RUNS, stop=self._stop):
                    run_id, event = entry.record.key, event_of(entry)
                    state = self.states.get(run_id, RunState(run_id))
                    if (event.envelope.sequence or 0) <= state.sequence:
                        continue
                    state = self.states[run_id] = apply(state, event)
                    for proposal in proposals(state, event):
                        for record in self._tamper(run_id, event, proposal):
                            log.signal(record)
        except BaseException as error:  # told when the worker is closed
            self.failed = error
            raise


def as_they_are(run_id: str, event: Event, proposal: DecisionProposed) -> Iterable[Record]:
    return [signal_of(run_id, event, proposal)]


REMOTE = ("decision.where=remote", "policy.exploration=0.1", "training.concurrent=2")


class Mail:
    """An inbox whose proposals the test puts there; ``waited`` counts how often it was asked to wait."""

    def __init__(self) -> None:
        self.arrived: deque[Proposal] = deque()
        self.waited = 0
        self.while_waiting: Callable[[], None] = lambda: None

    def proposal(self, seconds: float) -> Proposal | None:
        if seconds > 0 and not self.arrived:
            self.waited += 1
            self.while_waiting()
        return self.arrived.popleft() if self.arrived else None

    def put(self, *contents: DecisionProposed, run_id: str = RUN) -> None:
        for content in contents:
            identity = signal_id(run_id, content.issuer, content.nonce)
            self.arrived.append(Proposal(RUN, identity, content, time.monotonic()))


class Play:
    """A remote run whose boundaries the test reaches one by one."""

    def __init__(self, *assignments: str, answered: set[UUID] | None = None) -> None:
        self.history = History(*REMOTE, *assignments)
        self.mail = Mail()
        settings = settings_of(self.history.state).decision
        asked = questions(RUN, self.history.events, settings.lag)
        self.rule = Remote(self.mail, asked, answered or set(), settings)  # type: ignore[arg-type]
        self.reached: Event | None = None

    @property
    def state(self) -> RunState:
        return self.history.state

    def reach(self, step: int) -> DecisionProposed:
        """Reach the boundary; what a worker proposes about it, which nobody has sent yet."""
        self.reached = self.history.boundary(step)
        self.rule.reached(self.state)
        (proposal,) = proposals(self.state, self.reached)
        return proposal

    def answers(self) -> list[DecisionMade | DecisionRejected]:
        """Let the trainer decide; what it adds, with its signal's id as the cause."""
        tx = Transaction(RUN, self.state, 1)
        taken = self.rule.decide(tx, self.state.step)
        found = []
        for record, content in zip(tx.records, tx.contents, strict=True):
            assert isinstance(content, DecisionMade | DecisionRejected)
            assert (dict(record.headers).get("causation_id") is None) is (content.issuer is None)
            found.append(content)
            causes = tuple(UUID(v.decode()) for name, v in record.headers if name == "causation_id")
            event = self.history.add(content)
            self.history.events[-1] = Event(replace(event.envelope, causes=causes), content)
        if tx.then is not None:
            tx.then()  # as the journal does once they are committed
        assert [each for each in found if isinstance(each, DecisionMade)] == ([taken] if taken is not None else [])
        return found

    def at(self, step: int, *sent: DecisionProposed) -> DecisionProposed:
        """Send, reach a boundary and let the trainer decide."""
        self.mail.put(*sent)
        proposal = self.reach(step)
        self.answers()
        return proposal
