"""Where a run may grow and with what: as it was when the run began, whatever later versions know besides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from esper.events.assets import BlueprintRegistered
from esper.events.topics import ASSETS
from esper.kasmina.sites import Site, adopted, find_sites
from esper.log.ordering import once
from esper.log.port import Log
from esper.tamiyo.run.state import RunState
from esper.tolaria.model.subject import Subject
from esper.urza.fit import parameter_count
from esper.urza.library import Library, built_in, fold

Sites = Literal["auto"] | Sequence[str]


def sites_of(subject: Subject, wanted: Sites, state: RunState) -> list[Site]:
    """The model's sites, as the run of ``state`` has them."""
    return adopted(find_sites(subject.model, wanted, subject.optimizer), state.sites)


def blueprints_of(log: Log, state: RunState) -> dict[str, BlueprintRegistered]:
    """The blueprints of a run by id: those that were built in when it began. One that no longer is comes from the log.

    Raises UsageError if that does not hold it.
    """
    known = built_in()
    if state.sites is None:
        return known
    gone = [key for key in state.sites.blueprints if key not in known]
    events = [event for key in gone for _, event in once(log.read(ASSETS, key=key))]
    library = Library(known | dict(fold(Library(), events).blueprints))
    return {key: library.blueprint(key) for key in state.sites.blueprints}


def costs_of(blueprints: Mapping[str, BlueprintRegistered], sites: Sequence[Site]) -> dict[str, list[int]]:
    """By blueprint, the parameters it adds at each site; -1 where it does not fit."""
    return {
        key: [-1 if site.reason is not None else parameter_count(blueprint, site.kind, site.dims) for site in sites]
        for key, blueprint in blueprints.items()
    }
