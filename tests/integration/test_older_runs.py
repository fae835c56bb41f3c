"""A run that an older version began is resumed with the sites and blueprints that it began with."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from torch import nn

from esper.errors import UsageError
from esper.events.assets import BlueprintRegistered
from esper.events.runs import BoundaryReached, DecisionMade, RunStarted
from esper.kasmina.kinds import KINDS
from esper.urza import built_in
from esper.urza.blueprint import registration
from tests.support.runs.training import Loop, contents, history

pytestmark = pytest.mark.usefixtures("one_thread")

FIRST = ("bottleneck_conv", "bottleneck_mlp", "depthwise_conv", "low_rank")


def model() -> nn.Module:
    """A host with a layer of a later kind, and one that has no parameters and so was no site at all."""
    bare = nn.LayerNorm(4, elementwise_affine=False)
    return nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), bare, nn.Linear(4, 1))


def knowing(patch: pytest.MonkeyPatch, blueprints: dict[str, BlueprintRegistered], *kinds: str) -> None:
    """Makes this a version that has these blueprints and kinds of site."""
    patch.setattr("esper.urza.library._built_in", lambda: tuple(blueprints.values()))
    patch.setitem(vars(KINDS), "all", {name: KINDS[name] for name in kinds})


def first() -> dict[str, BlueprintRegistered]:
    return {key: each for key, each in built_in().items() if each.name in FIRST}


def test_what_this_version_knows_besides_changes_no_older_run(tmp_path: Path) -> None:
    loop = Loop(tmp_path, model=model, epochs=5)
    with pytest.MonkeyPatch.context() as older:
        knowing(older, first(), "Conv2d", "Linear")
        whole = loop.whole()
        loop.begin("torn")
        loop.go(until=13)
    for step in (21, 30):
        loop.resume("torn")
        loop.go(until=step)
    loop.resume("torn")
    loop.go()
    (started,) = contents(tmp_path, RunStarted, "torn")
    assert started.sites.names == ("0", "1", "3")
    assert started.sites.reasons[1] == "LayerNorm is no kind of site"
    assert len(started.sites.blueprints) == 4
    boundaries = contents(tmp_path, BoundaryReached, "torn")
    assert len(boundaries) == 10
    assert all(boundary.sites is None for boundary in boundaries)
    assert history(tmp_path, "torn") == whole


def test_a_new_run_has_all_of_them(tmp_path: Path) -> None:
    loop = Loop(tmp_path, model=model, epochs=1)
    loop.begin()
    loop.go()
    (started,) = contents(tmp_path, RunStarted)
    assert started.sites.kinds == ("Linear", "LayerNorm", "LayerNorm", "Linear")
    assert started.sites.reasons == (None,) * 4
    assert len(started.sites.blueprints) > 4


def retired() -> BlueprintRegistered:
    """A blueprint of an older version, cheaper than any other."""
    (linear,) = (each for each in built_in().values() if each.name == "low_rank")
    raw = json.loads(linear.definition)
    raw["name"], raw["graphs"]["Linear"]["sizes"]["rank"] = "once", 1
    return registration(json.dumps(raw))


def test_a_blueprint_that_is_no_longer_built_in_is_taken_from_the_log(tmp_path: Path) -> None:
    loop, once = Loop(tmp_path, epochs=5), retired()
    with pytest.MonkeyPatch.context() as older:
        knowing(older, first() | {once.blueprint: once}, "Conv2d", "Linear")
        whole = loop.whole()
        loop.begin("torn")
        loop.go(until=3)
    loop.resume("torn")
    loop.go()
    assert history(tmp_path, "torn") == whole
    assert once.blueprint in {decision.blueprint for decision in contents(tmp_path, DecisionMade, "torn")}


def test_a_blueprint_that_not_even_the_log_has_is_named(tmp_path: Path) -> None:
    loop, once = Loop(tmp_path, epochs=5), retired()
    with pytest.MonkeyPatch.context() as older:
        knowing(older, first() | {once.blueprint: once}, "Conv2d", "Linear")
        older.setattr(sys.modules["esper.tolaria.start"].Assembly, "unregistered", lambda assembly: [])
        loop.begin()
        loop.go(until=3)
    with pytest.raises(UsageError, match=f"there is no blueprint {once.blueprint}; there are bottleneck_conv@"):
        loop.resume()
