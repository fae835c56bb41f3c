"""Remote decisions for tests: a worker that follows a log, and a run that a test takes from boundary to boundary."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import closing
from uuid import UUID

from esper.events import Event
from esper.events.assets import KernelRequested
from esper.events.ids import signal_id
from esper.events.runs import DecisionMade, DecisionRejected
from esper.events.signals import DecisionProposed
from esper.events.topics import RUNS
from esper.log import open_log
from esper.log.port import Record
from esper.log.records import event_of
from esper.tamiyo.policy.remote import proposals, questions, signal_of
from esper.tamiyo.rules.decisions import decide
from esper.tamiyo.rules.script import KernelWanted
from esper.tamiyo.run.fold import apply
from esper.tamiyo.run.state import RunState, settings_of
from esper.tolaria.answers import Answers
from esper.tolaria.journal.inbox import PendingCommand, Proposal
from esper.tolaria.journal.journal import Transaction
from esper.tolaria.journal.proposals import Proposals
from tests.support.runs.histories import RUN, History

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

    def take(self) -> list[PendingCommand]:
        return []

    def proposal(self, seconds: float) -> Proposal | None:
        if seconds > 0 and not self.arrived:
            self.waited += 1
            self.while_waiting()
        return self.arrived.popleft() if self.arrived else None

    def put(self, *contents: DecisionProposed, run_id: str = RUN) -> None:
        for content in contents:
            identity = signal_id(run_id, content.issuer, content.nonce)
            self.arrived.append(Proposal(RUN, identity, content, time.monotonic()))


class Deciding(Answers):
    """A trainer's answers without a model: what remote decisions need of it."""

    def __init__(self, mail: Mail, proposals: Proposals) -> None:
        super().__init__(None, None, None, None, {}, mail, proposals)  # type: ignore[arg-type]

    def _asset(self, told: object) -> KernelRequested:
        assert isinstance(told, KernelWanted)
        return KernelRequested(blueprint=told.blueprint, kind="Linear", dims=(8, 8), seed=told.random)


class Play:
    """A remote run whose boundaries the test reaches one by one; nothing but decisions is made at them."""

    def __init__(self, *assignments: str, answered: set[UUID] | None = None) -> None:
        self.history = History(*REMOTE, *assignments)
        self.mail = Mail()
        settings = settings_of(self.history.state).decision
        self.asked = questions(RUN, self.history.events, settings.lag)
        sites = frozenset(self.history.state.sites.names)  # type: ignore[union-attr]
        self.answering = Deciding(self.mail, Proposals(self.mail, RUN, answered or set(), sites, settings))  # type: ignore[arg-type]
        self.reached: Event | None = None

    @property
    def state(self) -> RunState:
        return self.history.state

    def reach(self, step: int) -> DecisionProposed:
        """Reach the boundary; what a worker proposes about it, which nobody has sent yet."""
        self.reached = self.history.boundary(step)
        self.asked.reached(self.state)
        (proposal,) = proposals(self.state, self.reached)
        return proposal

    def answers(self) -> list[DecisionMade | DecisionRejected]:
        """Let the trainer decide; what it adds, with its signal's id as the cause."""
        tx = Transaction(self.state, 1)
        self.answering.carry_out(tx, decide(self.state, self.asked))
        found = []
        records = [record for record in tx.records() if record.topic == RUNS]
        for record, content in zip(records, tx.contents, strict=True):
            assert isinstance(content, DecisionMade | DecisionRejected)
            assert (dict(record.headers).get("causation_id") is None) is (content.issuer is None)
            found.append(content)
            self.history.add(content, *(UUID(v.decode()) for name, v in record.headers if name == "causation_id"))
        assert tx.then is not None
        tx.then()  # as the journal does once they are committed
        return found

    def at(self, step: int, *sent: DecisionProposed) -> DecisionProposed:
        """Send, reach a boundary and let the trainer decide."""
        self.mail.put(*sent)
        proposal = self.reach(step)
        self.answers()
        return proposal
