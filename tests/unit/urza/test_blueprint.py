from __future__ import annotations

import copy
import hashlib
import inspect
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from esper import urza
from esper.errors import UsageError
from esper.events import Envelope, Event
from esper.events.assets import (
    BlueprintRegistered,
    KernelCompiled,
    KernelEvaluated,
    KernelRejected,
    KernelRequested,
)
from esper.events.encoding.codec import canonical_json
from esper.events.runs import Evidence
from esper.urza import Library, built_in, fold, library, parameter_count
from esper.urza.blueprint import read_definition, registration
from esper.urza.fit import fit
from esper.urza.library import request_of
from esper.urza.sizes import value_of


def named(name: str) -> BlueprintRegistered:
    return next(content for content in built_in().values() if content.name == name)


@pytest.fixture
def raw() -> dict[str, Any]:
    """The bottleneck MLP as a JSON value that a test may spoil."""
    value: dict[str, Any] = copy.deepcopy(json.loads(named("bottleneck_mlp").definition))
    return value


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


def test_an_id_is_the_name_and_twelve_digits_of_the_digest_of_the_canonical_definition() -> None:
    for blueprint_id, content in built_in().items():
        definition = json.loads(content.definition)
        assert content.definition == canonical_json(definition)
        digest = hashlib.sha256(content.definition.encode()).hexdigest()
        assert blueprint_id == content.blueprint == f"{definition['name']}@{digest[:12]}"


def test_the_id_does_not_depend_on_the_layout_of_the_file(raw: dict[str, Any]) -> None:
    shuffled = json.dumps(dict(reversed(raw.items())), indent=7)
    assert registration(shuffled) == named("bottleneck_mlp")
    raw["version"] = 2
    assert registration(json.dumps(raw)).blueprint != named("bottleneck_mlp").blueprint


def test_nothing_here_imports_torch() -> None:
    program = (
        "import sys, esper.urza, esper.artifacts; from esper.kasmina.kinds import KINDS; "
        "assert any(esper.urza.parameter_count(b, k.name, [9] * len(k.dims)) > 0 "
        "for b in esper.urza.built_in().values() for k in KINDS); sys.exit('torch' in sys.modules)"
    )
    root = Path(urza.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0


@pytest.mark.parametrize(
    ("size", "number"),
    [
        (8, 8),
        ("in", 20),
        ({"min": [8, {"div": ["in", 2]}]}, 8),
        ({"max": [1, {"div": ["out", 7]}]}, 1),
        ({"mul": ["in", "out", 2]}, 200),
        ({"div": ["in", {"div": ["out", 6]}]}, 0),
    ],
)
def test_a_size_is_computed_from_data(size: Any, number: int) -> None:
    assert value_of(size, {"in": 20, "out": 5}) == number


@pytest.mark.parametrize(
    ("name", "kind", "dims", "count"),
    [
        ("low_rank", "Linear", (20, 10), 20 * 5 + 5 * 10),
        ("low_rank", "Linear", (100, 100), 100 * 8 * 2),
        ("low_rank", "Linear", (1, 1), 2),
        ("low_rank", "Conv2d", (3, 8, 5, 3, 1, 1), 3 * 4 * 15 + 4 * 8),
        ("bottleneck_mlp", "Linear", (20, 10), 20 * 20 + 20 + 20 * 10),
        ("depthwise_conv", "Conv2d", (6, 8, 3, 3, 2, 2), 6 * 9 + 6 + 6 * 8),
        ("bottleneck_conv", "Conv2d", (16, 8, 3, 3, 1, 1), 16 * 8 + 8 + 8 * 8 * 9 + 8 + 8 * 8),
        ("depthwise_conv", "Linear", (6, 8), -1),
        ("bottleneck_mlp", "Conv2d", (6, 8, 3, 3, 1, 1), -1),
        ("bottleneck_mlp", "LayerNorm", (6,), -1),
        ("bottleneck_mlp", "Linear", (6, 8, 3), -1),
        ("bottleneck_mlp", "Linear", (0, 8), -1),
        ("bottleneck_mlp", "Linear", (2**30, 8), -1),
    ],
)
def test_parameters_are_counted_without_torch(name: str, kind: str, dims: tuple[int, ...], count: int) -> None:
    assert parameter_count(named(name), kind, dims) == count


def spoil(raw: dict[str, Any], path: str, value: Any) -> str:
    *parents, last = path.split(".")
    place: Any = raw
    for key in parents:
        place = place[int(key) if isinstance(place, list) else key]
    if value is KeyError:
        del place[last]
    else:
        place[int(last) if isinstance(place, list) else last] = value
    return json.dumps(raw)


LINEAR = "graphs.Linear"


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("code", "import os", "code: Extra inputs"),
        (f"{LINEAR}.nodes.0.hook", "x", "hook: Extra inputs"),
        (f"{LINEAR}.nodes.0.op", "attention", "'attention'"),
        (f"{LINEAR}.nodes.0.out", KeyError, "out: Field required"),
        (f"{LINEAR}.nodes.0.weight", "pickle", "weight"),
        (f"{LINEAR}.nodes.0.name", "__class__", "name: String should match"),
        (f"{LINEAR}.nodes", [], "nodes"),
        (f"{LINEAR}.sizes.hidden", {"pow": ["in", 9]}, "sizes.hidden"),
        (f"{LINEAR}.sizes.hidden", -3, "sizes.hidden"),
        (f"{LINEAR}.sizes.hidden", 1.5, "sizes.hidden"),
        ("version", 0, "version"),
        ("version", True, "version"),
        ("graphs", {}, "graphs"),
        ("graphs.Attention", {}, "graphs"),
    ],
)
def test_a_definition_of_another_form_is_refused_in_one_line(
    raw: dict[str, Any], path: str, value: Any, words: str
) -> None:
    with pytest.raises(UsageError, match="definition is wrong at") as raised:
        registration(spoil(raw, path, value))
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 50_000, '{"a":' * 10_000, " " * 70_000])
def test_text_that_is_no_definition_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="definition is"):
        read_definition(text)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (f"{LINEAR}.nodes.0.out", "width", "the size 'width' is not defined; there are hidden, in, out"),
        (f"{LINEAR}.sizes", {}, "the size 'hidden' is not defined"),
        (f"{LINEAR}.sizes.hidden", {"div": ["in", 1000]}, "is 0; it must be at least 1"),
        (f"{LINEAR}.sizes.hidden", {"div": ["in", {"div": ["in", 1000]}]}, "is 0; it must be at least 1"),
        (f"{LINEAR}.sizes.hidden", {"min": [1, 2], "max": [1, 2]}, "one operator"),
        (f"{LINEAR}.sizes.hidden", 10**9, "parameters; 1 to 50000000 are allowed"),
        (f"{LINEAR}.sizes.hidden", {"mul": [2**31, 2**31, 2**31]}, "too large"),
        (f"{LINEAR}.sizes.in", 3, "'in' is given twice"),
        (f"{LINEAR}.nodes.2.out", 7, "its output has size 7, the site's 10"),
    ],
)
def test_a_blueprint_that_does_not_fit_says_why_and_counts_as_minus_one(
    raw: dict[str, Any], path: str, value: Any, words: str
) -> None:
    content = registration(spoil(raw, path, value))
    with pytest.raises(UsageError, match=words):
        fit(read_definition(content.definition), "Linear", (20, 10))
    assert parameter_count(content, "Linear", (20, 10)) == -1


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (f"{LINEAR}.nodes.1.input", "up", "takes 'up', which is not before it"),
        (f"{LINEAR}.nodes.1.name", "down", "'down' is there twice"),
        (f"{LINEAR}.nodes.1.name", "x", "'x' is there twice"),
        (f"{LINEAR}.output", "x", "'x' is no node"),
    ],
)
def test_a_blueprint_whose_graph_is_broken_is_refused_where_it_is_read(
    raw: dict[str, Any], path: str, value: Any, words: str
) -> None:
    with pytest.raises(UsageError, match=rf"definition is wrong at graphs\.Linear: .*{words}"):
        registration(spoil(raw, path, value))


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


def test_a_convolution_at_a_linear_and_groups_that_do_not_divide_do_not_fit(raw: dict[str, Any]) -> None:
    nodes = json.loads(named("depthwise_conv").definition)["graphs"]["Conv2d"]
    raw["graphs"] = {"Linear": nodes}
    with pytest.raises(UsageError, match="is a conv2d, which does not work at a Linear"):
        fit(read_definition(json.dumps(raw)), "Linear", (20, 10))
    nodes["nodes"][0]["groups"] = 4
    raw["graphs"] = {"Conv2d": nodes}
    with pytest.raises(UsageError, match="4 groups of node 'depth' do not divide its 6"):
        fit(read_definition(json.dumps(raw)), "Conv2d", (6, 8, 3, 3, 1, 1))


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
