"""Nodes with several inputs."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from esper.artifacts import open_store
from esper.errors import UsageError
from esper.events.assets import KernelCompiled
from esper.tezzeret import build, compile_kernel
from esper.urza.blueprint import registration
from tests.support.runs.sites import requested

NODES: list[dict[str, Any]] = [
    {"name": "value", "op": "linear", "input": "x", "out": 5, "weight": "kaiming", "bias": None},
    {"name": "gate", "op": "linear", "input": "x", "out": 5, "weight": "kaiming", "bias": "zeros"},
    {"name": "gated", "op": "multiply", "inputs": ["value", "gate"]},
    {"name": "up", "op": "linear", "input": "gated", "out": "out", "weight": "zeros", "bias": None},
]


def blueprint(nodes: list[dict[str, Any]]) -> Any:
    graph = {"sizes": {}, "nodes": nodes, "output": nodes[-1]["name"]}
    raw = {"name": "gated", "version": 1, "tags": [], "parents": [], "graphs": {"Linear": graph}}
    return registration(json.dumps(raw))


def test_a_gated_kernel_computes_the_product_of_its_two_ways(tmp_path: Any) -> None:
    site, gated = nn.Linear(4, 3), blueprint(NODES)
    content, kernel = compile_kernel(open_store(f"file:///{tmp_path}"), gated, requested(gated, site))
    assert isinstance(content, KernelCompiled), content
    assert kernel is not None
    x = torch.randn(2, 4)
    with torch.no_grad():
        kernel.get_parameter("up.weight").normal_()
        expected = kernel.up(kernel.value(x) * kernel.gate(x))
    assert torch.equal(kernel(x), expected)
    assert [name for name, _ in kernel.named_parameters()] == ["value.weight", "gate.weight", "gate.bias", "up.weight"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inputs": ["value", "x"]}, "the node 'gated' multiplies sizes 5, 4; they must be equal"),
        ({"inputs": ["value", "up"]}, "the node 'gated' takes 'up', which is not before it"),
        ({"inputs": ["value"]}, "at least 2"),
        ({"inputs": ["value"] * 9}, "at most 8"),
        ({"input": "value"}, "input: Extra inputs"),
    ],
)
def test_inputs_that_cannot_be_are_refused_in_words(change: dict[str, Any], words: str) -> None:
    nodes = [*NODES[:2], NODES[2] | change, NODES[3]]
    with pytest.raises(UsageError, match=words):
        fit_at_linear(nodes)


def fit_at_linear(nodes: list[dict[str, Any]]) -> None:
    registered = blueprint(nodes)
    build(registered, requested(registered, nn.Linear(4, 3)))


def test_a_node_of_one_input_does_not_take_several() -> None:
    nodes = [{key: value for key, value in NODES[0].items() if key != "input"} | {"inputs": ["x", "x"]}]
    with pytest.raises(UsageError, match="definition is wrong"):
        blueprint(nodes)
