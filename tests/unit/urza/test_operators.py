"""What every operator keeps, those of installed packages too: each file in ``esper/urza/operators`` adds its tests."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from esper.errors import UsageError
from esper.events.encoding.codec import canonical_json
from esper.kasmina.kinds import KINDS, Geometry, Kind
from esper.tezzeret.graph import DTYPES, KernelGraph
from esper.tezzeret.module import Kernel
from esper.urza.blueprint import Definition, read_definition
from esper.urza.fit import fit
from esper.urza.operators import OPERATORS, FitTarget, Fitted, Node, Operator

pytestmark = pytest.mark.usefixtures("one_thread")

EXAMPLES = [
    pytest.param(operator, example, id=f"{operator.name}: {number}")
    for operator in OPERATORS
    for number, example in enumerate(operator.examples)
]
each_example = pytest.mark.parametrize(("operator", "example"), EXAMPLES)


def places(node: Node) -> list[tuple[Kind, FitTarget]]:
    """One target of each kind where the node works."""
    found = []
    for kind in KINDS:
        if node.layouts is None or kind.layout in node.layouts:
            module = kind.examples()[0]
            dims = kind.dims_of(module)
            sizes = {"in": dims[0], "out": dims[1]}
            named = dict(zip(kind.dims, dims, strict=True))
            target = FitTarget(kind, named, kind.geometry_of(module), sizes)
            if fits(node, target):
                found.append((kind, target))
    assert found, "it works at no kind of site"
    return found


def fits(node: Node, target: FitTarget) -> bool:
    """Whether it does; one with the geometry of the site wants a site that has it."""
    try:
        fitted(node, target)
    except UsageError:
        return False
    return True


def fitted(node: Node, target: FitTarget) -> Fitted:
    return node.fit(tuple(target.dims["in"] for _ in node.sources), target)


def kernel_of(part: Fitted, kind: Kind, dtype: str = "torch.float32") -> Kernel:
    return Kernel(KernelGraph(kind=kind.name, dtype=dtype, layers=(part.layer,), output=part.node.name), "cpu")


def initialised(part: Fitted, kind: Kind, dtype: str = "torch.float32", seed: int = 7) -> Kernel:
    kernel = kernel_of(part, kind, dtype)
    with torch.no_grad():
        for parameter in kernel.parameters():
            parameter.fill_(float("nan"))
        part.node.initialise(kernel.get_submodule(part.node.name), torch.Generator().manual_seed(seed))
    return kernel


def input_for(target: FitTarget, kind: Kind, dtype: str = "torch.float32") -> Tensor:
    shape = kind.sample(tuple(target.dims.values()), target.geometry)
    return torch.randn(shape, generator=torch.Generator().manual_seed(5)).to(DTYPES[dtype])


@pytest.mark.parametrize("operator", list(OPERATORS), ids=lambda operator: operator.name)
def test_an_operator_has_examples_that_name_it(operator: Operator) -> None:
    assert operator.examples
    for example in operator.examples:
        assert example["op"] == operator.name
        assert operator.node.model_validate(example).sources == ("x",) * len(example.get("inputs", "x"))


@each_example
def test_a_node_is_data_that_keeps_what_it_says(operator: Operator, example: Mapping[str, Any]) -> None:
    node = operator.node.model_validate(example)
    assert json.loads(node.model_dump_json()) == json.loads(json.dumps(example))
    with pytest.raises(ValidationError, match="Extra inputs"):
        operator.node.model_validate({**example, "hook": "x"})
    for name in ("name", "op"):
        with pytest.raises(ValidationError):
            operator.node.model_validate({key: value for key, value in example.items() if key != name})


@each_example
def test_a_blueprint_may_hold_it(operator: Operator, example: Mapping[str, Any]) -> None:
    kind, _ = places(operator.node.model_validate(example))[0]
    graph = {"sizes": {}, "nodes": [example], "output": example["name"]}
    raw = {"name": "b", "version": 1, "tags": [], "parents": [], "graphs": {kind.name: graph}}
    read: Definition = read_definition(json.dumps(raw))
    assert read.graphs[kind.name].nodes == (operator.node.model_validate(example),)


@each_example
def test_a_layer_is_data_that_loads_as_it_was_saved(operator: Operator, example: Mapping[str, Any]) -> None:
    for kind, target in places(operator.node.model_validate(example)):
        part = fitted(operator.node.model_validate(example), target)
        assert type(part.layer) is operator.layer
        assert part.layer.sources == part.node.sources
        kernel = initialised(part, kind)
        text = canonical_json(kernel.graph.model_dump(mode="json"))
        assert KernelGraph.model_validate_json(text) == kernel.graph


@each_example
def test_size_and_parameters_are_those_of_its_module(operator: Operator, example: Mapping[str, Any]) -> None:
    for kind, target in places(operator.node.model_validate(example)):
        part = fitted(operator.node.model_validate(example), target)
        kernel = initialised(part, kind)
        assert part.layer.parameters == sum(parameter.numel() for parameter in kernel.parameters())
        assert kernel(input_for(target, kind)).shape[kind.unit] == part.size
        assert part.flops >= part.layer.parameters
        assert part.flops > 0


@each_example
def test_flops_are_those_that_torch_counts_and_a_sum_for_each_bias(
    operator: Operator, example: Mapping[str, Any]
) -> None:
    for kind, target in places(operator.node.model_validate(example)):
        part = fitted(operator.node.model_validate(example), target)
        if part.layer.parameters:
            with FlopCounterMode(display=False) as counter:
                y = initialised(part, kind)(input_for(target, kind))
            counted = counter.get_total_flops() // (y.numel() // part.size)
            assert 0 <= part.flops - counted <= part.size


@each_example
def test_initial_values_are_all_set_and_depend_on_the_generator_alone(
    operator: Operator, example: Mapping[str, Any]
) -> None:
    for kind, target in places(operator.node.model_validate(example)):
        part = fitted(operator.node.model_validate(example), target)
        before = torch.get_rng_state()
        first, again = initialised(part, kind), initialised(part, kind)
        assert torch.equal(torch.get_rng_state(), before)
        for one, other in zip(first.parameters(), again.parameters(), strict=True):
            assert one.isfinite().all()
            assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", DTYPES)
@each_example
def test_it_computes_in_every_dtype_and_a_copy_the_same(
    operator: Operator, example: Mapping[str, Any], dtype: str
) -> None:
    for kind, target in places(operator.node.model_validate(example)):
        kernel = initialised(fitted(operator.node.model_validate(example), target), kind, dtype)
        x = input_for(target, kind, dtype).requires_grad_()
        y = kernel(x)
        assert y.dtype == DTYPES[dtype]
        assert torch.equal(copy.deepcopy(kernel)(x), y)
        (gradient,) = torch.autograd.grad(y.float().square().sum(), [x])
        assert gradient.isfinite().all()


@each_example
def test_where_it_does_not_work_it_says_so(operator: Operator, example: Mapping[str, Any]) -> None:
    node = operator.node.model_validate(example)
    graph = {"sizes": {}, "nodes": [example], "output": example["name"]}
    for kind in KINDS:
        if node.layouts is not None and kind.layout not in node.layouts:
            raw = {"name": "b", "version": 1, "tags": [], "parents": [], "graphs": {kind.name: graph}}
            dims = kind.dims_of(kind.examples()[0])
            with pytest.raises(UsageError, match=f"is a {operator.name}, which does not work at a {kind.name}"):
                fit(read_definition(json.dumps(raw)), kind.name, dims)


def test_a_convolution_with_the_geometry_of_a_site_that_has_none_says_so() -> None:
    class Image(type(KINDS["Conv2d"])):  # type: ignore[misc]
        name, dims = "Image", ("in", "out")

    target = FitTarget(Image(), {"in": 4, "out": 4}, Geometry(), {"in": 4, "out": 4})
    site, point = (OPERATORS["conv2d"].node.model_validate(example) for example in OPERATORS["conv2d"].examples)
    assert point.fit((4,), target).size == 4
    with pytest.raises(UsageError, match="node 'a' has the geometry of the site, but a Image has none"):
        site.fit((4,), target)


def test_an_unknown_operator_is_an_error_that_says_what_there_is() -> None:
    with pytest.raises(UsageError, match=f"no operator 'attention'; there are {', '.join(OPERATORS.all)}"):
        OPERATORS["attention"]
    nodes = [{"name": "a", "op": "attention", "input": "x"}]
    graph = {"sizes": {}, "nodes": nodes, "output": "a"}
    raw = {"name": "b", "version": 1, "tags": [], "parents": [], "graphs": {"Linear": graph}}
    with pytest.raises(UsageError, match=r"graphs\.Linear\.nodes\.0: there is no operator 'attention'; there are "):
        read_definition(json.dumps(raw))


@pytest.mark.parametrize("op", [None, ["gelu"], {}, 7, "__class__"])
def test_what_is_no_name_of_an_operator_is_refused(op: Any) -> None:
    graph = {"sizes": {}, "nodes": [{"name": "a", "op": op, "input": "x"}], "output": "a"}
    raw = {"name": "b", "version": 1, "tags": [], "parents": [], "graphs": {"Linear": graph}}
    with pytest.raises(UsageError, match="there is no operator"):
        read_definition(json.dumps(raw))


def test_an_ordinary_module_would_have_drawn_from_the_global_generator() -> None:
    before = torch.get_rng_state()
    nn.Linear(2, 2)
    assert not torch.equal(torch.get_rng_state(), before)
