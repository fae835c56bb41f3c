"""The library: the built-in blueprints, and the fold of asset events."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from esper import urza
from esper.errors import UsageError
from esper.events import Envelope, Event
from esper.events.assets import (
    KernelCompiled,
    KernelEvaluated,
    KernelRejected,
    KernelRequested,
)
from esper.events.runs import Evidence
from esper.urza import Library, built_in, fold, library
from esper.urza.library import request_of
from tests.support.blueprints import named


def event(content: Any, identity: UUID | None = None) -> Event:
    return Event(Envelope(id=identity or uuid4(), time=datetime.now(UTC), writer="test"), content)


def test_the_first_built_in_blueprints_are_there_with_their_kinds_and_every_one_is_registered() -> None:
    kinds = {content.name: content.kinds for content in built_in().values()}
    first = {
        "bottleneck_conv": ("Conv2d",),
        "bottleneck_mlp": ("Linear",),
        "depthwise_conv": ("Conv2d",),
        "low_rank": ("Conv2d", "Linear"),
    }
    assert {name: kinds.get(name) for name in first} == first
    assert urza.register() == list(built_in().values())


def test_a_built_in_blueprint_that_is_wrong_is_named_by_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "blueprints"
    folder.mkdir()
    monkeypatch.setattr("esper.urza.library.files", lambda package: tmp_path)
    built_in = inspect.unwrap(library._built_in)
    (folder / "one.json").write_text("{")
    with pytest.raises(UsageError, match=r"^one\.json: the blueprint's definition is wrong"):
        built_in()
    text = named("low_rank").definition
    (folder / "one.json").write_text(text)
    (folder / "two.json").write_text(text.replace('"linear"]', '"flat"]'))
    with pytest.raises(UsageError, match=r"^two\.json: there is a blueprint low_rank of version 1 already"):
        built_in()


def asset_events() -> list[Event]:
    blueprint = named("low_rank")
    request: dict[str, Any] = {"blueprint": blueprint.blueprint, "kind": "Linear", "dims": (20, 10), "seed": 7}
    evidence = Evidence(passed=True, reason="better")
    return [
        *(event(content) for content in urza.register()),
        event(KernelRequested(**request)),
        event(KernelCompiled(**request, kernel="a" * 64, parameters=150, size=900)),
        event(KernelRejected(**(request | {"dims": (0, 1)}), reason="too small")),
        event(
            KernelEvaluated(
                blueprint=blueprint.blueprint,
                kernel="a" * 64,
                kind="Linear",
                dims=(20, 10),
                gate="verdict",
                evidence=evidence,
            )
        ),
    ]


def test_the_library_is_a_fold_of_asset_events() -> None:
    events = asset_events()
    library = fold(Library(), events)
    assert dict(library.blueprints) == built_in()
    blueprint = named("low_rank").blueprint
    assert library.kernels[blueprint, "Linear", (20, 10), 7].kernel == "a" * 64
    assert library.rejections[blueprint, "Linear", (0, 1), 7].reason == "too small"
    assert [content.gate for content in library.evaluations.values()] == ["verdict"]


def test_requests_of_other_geometry_or_dtype_are_others_and_those_of_older_logs_keep_their_names() -> None:
    asked: dict[str, Any] = {"blueprint": named("low_rank").blueprint, "kind": "Conv2d", "dims": (3, 8, 3, 3, 1, 1)}
    saying = [(None, None), ("{}", "torch.float32"), ('{"p":1}', "torch.float32"), ("{}", "torch.float64")]
    answers = [
        KernelCompiled(**asked, seed=7, kernel=digit * 64, parameters=1, size=1, geometry=geometry, dtype=dtype)
        for digit, (geometry, dtype) in zip("abcd", saying, strict=True)
    ]
    library = fold(Library(), [event(answer) for answer in answers])
    assert [each.kernel[0] for each in library.kernels.values()] == ["a", "b", "c", "d"]
    assert library.kernels[asked["blueprint"], "Conv2d", asked["dims"], 7].kernel == "a" * 64
    assert request_of(answers[1])[-2:] == ("{}", "torch.float32")


def test_folding_events_again_or_in_parts_changes_nothing() -> None:
    events = asset_events()
    library = fold(Library(), events)
    assert fold(library, events) == library
    for cut in range(len(events)):
        assert fold(fold(Library(), events[:cut]), events[cut:]) == library
        assert fold(library, events[cut:]) == library


def test_a_fold_leaves_the_library_it_began_with_as_it_was() -> None:
    empty = Library()
    fold(empty, asset_events())
    assert empty == Library()


def test_an_unknown_blueprint_is_an_error_that_names_those_there_are() -> None:
    library = fold(Library(), asset_events())
    assert library.blueprint(named("low_rank").blueprint) == named("low_rank")
    with pytest.raises(UsageError, match="no blueprint x@1; there are bottleneck_conv@"):
        library.blueprint("x@1")


def test_of_two_answers_to_one_request_the_first_stays() -> None:
    asked: dict[str, Any] = {"blueprint": "a@1", "kind": "Linear", "dims": (2, 2), "seed": 7}
    compiled = [KernelCompiled(**asked, kernel=digit * 64, parameters=1, size=1) for digit in "ab"]
    rejected = [KernelRejected(**asked, reason=reason) for reason in ("first", "second")]
    library = fold(Library(), [event(answer) for answer in (*compiled, *rejected)])
    assert list(library.kernels.values()) == compiled[:1]
    assert list(library.rejections.values()) == rejected[:1]
