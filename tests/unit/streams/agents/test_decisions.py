"""What a worker that catches up proposes: only what a trainer may still be waiting for."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from esper.events import runs
from esper.log.port import Record
from streams.agents.decisions import Decisions
from tests.support.runs.histories import History


class Ticket:
    """Counts what is under way."""

    def __init__(self) -> None:
        self.held = 0

    def hold(self) -> None:
        self.held += 1

    def release(self) -> None:
        self.held -= 1


class Sent:
    """A log that keeps the signals."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def signal(self, record: Record) -> None:
        self.records.append(record)


def proposed(history: History, steps: tuple[int, ...], *after: Any) -> tuple[int, int]:
    """How many proposals a worker sends that reads all this at once, and how many events it still holds then."""
    log, ticket = Sent(), Ticket()
    decisions = Decisions(log)  # type: ignore[arg-type]

    async def work() -> None:
        for step in steps:
            await decisions.event(ticket, history.state, history.boundary(step))  # type: ignore[arg-type]
        for content in after:
            await decisions.event(ticket, history.state, history.add(content))  # type: ignore[arg-type]
        for _ in range(2):  # what is sent is not sent again
            await decisions.idle()
        await asyncio.gather(*decisions._sending)

    asyncio.run(work())
    assert decisions.sent == len(log.records)
    return len(log.records), ticket.held


@pytest.mark.parametrize("lag", [1, 2])
def test_of_a_run_that_it_catches_up_with_it_answers_the_last_boundaries_only(lag: int) -> None:
    history = History("decision.where=remote", f"decision.lag={lag}")
    assert proposed(history, (10, 20, 30)) == (lag, 0)


def test_a_run_whose_policy_is_not_known_gets_no_proposal_and_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    history = History("decision.where=remote", "decision.lag=2", "policy.name=oracle")
    with caplog.at_level(logging.WARNING, "esper.worker"):
        assert proposed(history, (10, 20, 30)) == (0, 0)
    (said,) = caplog.messages
    assert said.startswith("nothing is proposed for run a-run: there is no policy 'oracle'")


def test_a_run_that_decides_for_itself_or_is_over_gets_no_proposal() -> None:
    over = runs.RunCancelled(step=30, reason="a stop command")
    assert proposed(History(), (10, 20)) == (0, 0)
    assert proposed(History("decision.where=remote"), (10, 20), over) == (0, 0)
