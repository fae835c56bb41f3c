"""The asset view's pieces: those of events are those of the library's fold, and small."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

from esper.events import Envelope, Event, assets
from esper.tamiyo.run.view import LARGEST
from esper.urza import register
from esper.urza.library import Library, fold
from esper.urza.view import pieces, states

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def event(content: object) -> Event:
    return Event(Envelope(id=uuid4(), time=NOW, writer="t"), content)  # type: ignore[arg-type]


def kernel(seed: int, parameters: int = 10) -> assets.KernelCompiled:
    return assets.KernelCompiled(
        blueprint="b@1", kernel=f"k{parameters}", kind="Linear", dims=(4, 8), seed=seed, parameters=parameters, size=99
    )


def test_the_pieces_of_events_are_those_of_the_library_however_often_they_come():
    given = [event(content) for content in register()]
    given += [event(kernel(1)), event(kernel(1, 20)), event(kernel(2))]
    given += [event(assets.KernelRejected(blueprint="b@1", kind="Linear", dims=(4, 8), seed=3, reason="too large"))]
    given += [event(assets.KernelRequested(blueprint="b@1", kind="Linear", dims=(4, 8), seed=3)), *given[:3]]
    kept: dict[str, bytes] = {}
    for each in given:
        kept = pieces(each) | kept
    assert {key: json.loads(value)["state"] for key, value in kept.items()} == states(fold(Library(), given))


def test_a_definition_of_any_size_stays_in_small_pieces():
    registered = next(iter(register()))
    large = assets.BlueprintRegistered(
        blueprint="x@1",
        name="n" * 9000,
        version=1,
        definition="\x01" * 65536,
        kinds=registered.kinds,
        tags=("é" * 9000,) * 100,
        parents=(),
    )
    kept = pieces(event(large))
    assert max(map(len, kept.values())) < LARGEST
    assert "".join(json.loads(kept[f"x@1/definition/{n}"])["state"]["text"] for n in range(16)) == large.definition


def test_the_pieces_of_older_events_are_those_that_older_versions_wrote():
    (piece,) = pieces(event(kernel(1))).items()
    assert piece[0] == "b@1/kernel/19663d0be4d1a5b8"
    assert json.loads(piece[1])["state"] == {
        "blueprint": "b@1",
        "dims": [4, 8],
        "kernel": "k10",
        "kind": "Linear",
        "measured": None,
        "parameters": 10,
        "seed": 1,
        "size": 99,
    }


def test_kernels_of_other_geometry_are_other_pieces():
    known = replace(kernel(1), geometry="{}", dtype="torch.float32")
    other = replace(known, dtype="torch.float64")
    keys = [key for each in (kernel(1), known, other) for key in pieces(event(each))]
    assert len(set(keys)) == 3
    (state,) = pieces(event(known)).values()
    assert json.loads(state)["state"]["geometry"] == "{}"
