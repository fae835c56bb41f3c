"""Blueprints at sites: what fits, what it costs, and why another does not."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from esper.errors import UsageError
from esper.urza import parameter_count
from esper.urza.blueprint import read_definition, registration
from esper.urza.fit import fit
from tests.support.blueprints import definition, named, spoilt
from tests.support.paths import ROOT


def test_nothing_here_imports_torch() -> None:
    program = (
        "import sys, esper.urza, esper.artifacts; from esper.kasmina.kinds import KINDS; "
        "assert any(esper.urza.parameter_count(b, k.name, [9] * len(k.dims)) > 0 "
        "for b in esper.urza.built_in().values() for k in KINDS); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


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


LINEAR = "graphs.Linear"


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
        (f"{LINEAR}.nodes.2.out", 11, "its output has size 11, the site's 10"),
    ],
)
def test_a_blueprint_that_does_not_fit_says_why_and_counts_as_minus_one(path: str, value: Any, words: str) -> None:
    content = registration(spoilt(path, value))
    with pytest.raises(UsageError, match=words):
        fit(read_definition(content.definition), "Linear", (20, 10))
    assert parameter_count(content, "Linear", (20, 10)) == -1


def test_a_convolution_at_a_linear_and_groups_that_do_not_divide_do_not_fit() -> None:
    raw, nodes = definition(), definition("depthwise_conv")["graphs"]["Conv2d"]
    raw["graphs"] = {"Linear": nodes}
    with pytest.raises(UsageError, match="is a conv2d, which does not work at a Linear"):
        fit(read_definition(json.dumps(raw)), "Linear", (20, 10))
    nodes["nodes"][0]["groups"] = 4
    raw["graphs"] = {"Conv2d": nodes}
    with pytest.raises(UsageError, match="4 groups of node 'depth' do not divide its 6"):
        fit(read_definition(json.dumps(raw)), "Conv2d", (6, 8, 3, 3, 1, 1))


@pytest.mark.parametrize(
    ("kind", "dims", "words"),
    [
        ("Conv2d", (6, 8, 3, 3, 1, 1), "it is for Linear, not for Conv2d"),
        ("Linear", (20, 10, 3), "a Linear has 2 dims, not 3"),
        ("Linear", (20, 0), "the site's dims are [20, 0]; each must be at least 1"),
    ],
)
def test_a_site_of_another_form_is_refused_in_words(kind: str, dims: tuple[int, ...], words: str) -> None:
    with pytest.raises(UsageError) as raised:
        fit(read_definition(named("bottleneck_mlp").definition), kind, dims)
    assert str(raised.value) == words


def test_every_node_has_its_numbers_in_the_order_of_the_graph() -> None:
    nodes = fit(read_definition(named("bottleneck_mlp").definition), "Linear", (20, 10))
    assert [(each.node.name, each.size) for each in nodes] == [("down", 20), ("act", 20), ("up", 10)]
    assert [each.layer.parameters for each in nodes] == [20 * 20 + 20, 0, 20 * 10]
