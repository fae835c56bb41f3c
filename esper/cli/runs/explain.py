"""``esper why`` and ``esper verify``: what the log proves. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import click

from esper.cli.options import Place, common
from esper.cli.output import print_json
from esper.cli.runs.reading import history, log_with
from esper.events import Event
from esper.events.encoding.codec import jsonable
from esper.events.topics import ASSETS, RUNS
from esper.log.exclusions import Passed, noting, order_of
from esper.log.ordering import once
from esper.log.port import Entry, Position
from esper.tamiyo.proof import verify as check
from esper.tamiyo.proof.why import explain, render


@click.command()
@click.argument("run_id", metavar="RUN")
@click.argument("seed", metavar="SEED")
@common
def why(place: Place, run_id: str, seed: str) -> None:
    """Tell a seed's chain of causes: measurements, decision, kernel, gates, outcome.

    SEED is a name such as 'fc1#1' (esper show RUN lists them); quote it for the shell.
    """
    log = log_with(place, run_id)
    events = (event for _, event in history(log, run_id))
    chain = explain(events, seed, (event for _, event in once(log.read(ASSETS))))
    if place.json:
        print_json({"run_id": run_id, "seed": seed, "chain": chain})
    else:
        click.echo(render(chain))


@click.command()
@click.argument("run_id", metavar="RUN")
@common
def verify(place: Place, run_id: str) -> int:
    """Decide a run again from its log: every transition, decision, verdict and rollback by the rules.

    Exits 1 if anything does not follow from what came before it, with the event, its place and the rule; also where the
    chain through the run does not hold, and if a record under the run's name is none of its events.
    """
    log = log_with(place, run_id)
    places: list[Position] = []
    passed: list[Passed] = []
    order = order_of(log, run_id, unreadable=noting(passed))
    report = check.verify(run_id, _noting(order.over(log.read(RUNS, key=run_id)), places))
    ok, chained = report.ok and not passed and report.counts["events"] > 0, order.mark.chained
    if place.json:
        findings = [{**jsonable(each), "position": _position(places, each.sequence)} for each in report.findings]
        told = {"run_id": run_id, "ok": ok, "counts": report.counts, "chained": chained, "findings": findings}
        print_json(told | {"passed_over": [{"position": str(each.position), "why": each.why} for each in passed]})
    else:
        for (rule, what), sequences in _alike(report.findings).items():
            first, last, more = sequences[0], sequences[-1], len(sequences) - 1
            again = f"; so it is said of {more} more, the last of them event {last}" if more else ""
            click.echo(f"event {first} at {_position(places, first)}: {what} (rule: {rule}){again}")
        counted = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in report.counts.items() if count)
        none = "none of its records counts as an event"
        click.echo(f"run {run_id}: {f'{counted} computed again: {_result(len(report.findings))}' if counted else none}")
        if order.taken_out:
            out = f"{order.taken_out:,} record{'s were' if order.taken_out > 1 else ' was'} taken out"
            click.echo(f"run {run_id}: {out}; `esper dlq list` says which and why")
        if chained != 1 and report.counts["events"]:
            click.echo(f"run {run_id}: {_covered(chained)}")
    for each in passed:
        click.echo(f"esper: {each}", err=True)
    return 0 if ok else 1


def _covered(chained: int | None) -> str:
    """What the chain says of a run that an older Esper wrote, or began."""
    if chained is None:
        return "an older Esper wrote it without a chain, so an event that was changed shows only if a rule is broken"
    return f"the chain covers it from event {chained - 1} on; an older Esper wrote those before without one"


def _noting(entries: Iterable[tuple[Entry, Event]], places: list[Position]) -> Iterator[Event]:
    """The events, whose places are noted as they pass."""
    for entry, event in entries:
        places.append(entry.position)
        yield event


def _alike(findings: Iterable[check.Deviation]) -> dict[tuple[str, str], list[int]]:
    """The events of findings that say the same, in their order."""
    found: dict[tuple[str, str], list[int]] = {}
    for each in findings:
        found.setdefault((each.rule, each.what), []).append(each.sequence)
    return found


def _position(places: list[Position], sequence: int) -> str:
    """Where event ``sequence`` lies, or would follow."""
    return str(places[sequence - 1]) if sequence <= len(places) else "the end"


def _result(findings: int) -> str:
    return f"{findings} do not agree" if findings else "all agree"
