"""A blueprint's definition: its form, its id, and what is refused where it is read."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from esper.errors import UsageError
from esper.events.encoding.codec import canonical_json
from esper.urza import built_in
from esper.urza.blueprint import read_definition, registration
from tests.support.blueprints import definition, named, spoilt


def test_an_id_is_the_name_and_twelve_digits_of_the_digest_of_the_canonical_definition() -> None:
    for blueprint_id, content in built_in().items():
        definition = json.loads(content.definition)
        assert content.definition == canonical_json(definition)
        digest = hashlib.sha256(content.definition.encode()).hexdigest()
        assert blueprint_id == content.blueprint == f"{definition['name']}@{digest[:12]}"


def test_the_id_does_not_depend_on_the_layout_of_the_file() -> None:
    raw = definition()
    shuffled = json.dumps(dict(reversed(raw.items())), indent=7)
    assert registration(shuffled) == named("bottleneck_mlp")
    raw["version"] = 2
    assert registration(json.dumps(raw)).blueprint != named("bottleneck_mlp").blueprint


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
def test_a_definition_of_another_form_is_refused_in_one_line(path: str, value: Any, words: str) -> None:
    with pytest.raises(UsageError, match="definition is wrong at") as raised:
        registration(spoilt(path, value))
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 50_000, '{"a":' * 10_000, " " * 70_000])
def test_text_that_is_no_definition_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="definition is"):
        read_definition(text)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (f"{LINEAR}.nodes.1.input", "up", "takes 'up', which is not before it"),
        (f"{LINEAR}.nodes.1.name", "down", "'down' is there twice"),
        (f"{LINEAR}.nodes.1.name", "x", "'x' is there twice"),
        (f"{LINEAR}.output", "x", "'x' is no node"),
    ],
)
def test_a_blueprint_whose_graph_is_broken_is_refused_where_it_is_read(path: str, value: Any, words: str) -> None:
    with pytest.raises(UsageError, match=rf"definition is wrong at graphs\.Linear: .*{words}"):
        registration(spoilt(path, value))
