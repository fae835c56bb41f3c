"""State trees: what goes into a checkpoint's skeleton and tensors comes out exactly."""

from __future__ import annotations

import json
import math
from collections import Counter, OrderedDict, deque
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from esper.errors import CorruptArtifact, Unsupported
from esper.tolaria.model.tree import flatten, unflatten


def through_json(tree: Any) -> Any:
    skeleton, tensors = flatten(tree)
    return unflatten(json.loads(json.dumps(skeleton, allow_nan=False)), {k: t.clone() for k, t in tensors.items()})


def same(a: Any, b: Any) -> bool:
    """Equal in type, order and every bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        alike = a.dtype == b.dtype and a.shape == b.shape
        return alike and torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return len(a) == len(b) and all(
            same(k, m) and same(v, w) for (k, v), (m, w) in zip(a.items(), b.items(), strict=True)
        )
    if isinstance(a, list | tuple | deque):
        ends = not isinstance(a, deque) or a.maxlen == b.maxlen
        return ends and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    return bool(a == b)


TREES = {
    "keys that are no strings": {1: "a", False: "b", (2, "x"): "c", None: "d", 2.5: "e", b"k": "f"},
    "key order": {"b": 1, "a": 2},
    "tuples in lists": [(1, (2,)), [], ()],
    "MultiStepLR's Counter": {"milestones": Counter({30: 2, 80: 1})},
    "ReduceLROnPlateau's infinities": {"best": math.inf, "mode_worse": -math.inf, "nan": math.nan, "zero": -0.0},
    "an ordered dict in a dict": {"a": OrderedDict(z=1, b=2)},
    "large integers": [2**63, -(2**80)],
    "sets": {"s": {1, 2}, "f": frozenset({"x"}), "nested": {frozenset({1})}},
    "a deque": deque([1, 2.5], maxlen=7),
    "bytes": {"state": bytes(range(256))},
    "numpy scalars": [np.float32(0.1), np.float64("nan"), np.int64(-3), np.uint8(7), np.bool_(True), np.float16(2)],
    "numpy arrays": [np.arange(6, dtype=">i2").astype("int16").reshape(2, 3)[:, ::2], np.zeros((0, 3)), np.array(1.5)],
    "bfloat16": torch.tensor([1.0, math.nan, -0.0], dtype=torch.bfloat16),
    "a tensor without dimensions": {"step": torch.tensor(3.0)},
    "an empty tensor": torch.empty(0, 3, dtype=torch.int8),
    "bools and complex numbers": [torch.tensor([True, False]), torch.tensor([1 + 2j])],
    "a strided tensor": torch.arange(6.0).reshape(2, 3).T,
}


@pytest.mark.parametrize("name", TREES)
def test_a_tree_comes_back_exactly(name: str) -> None:
    assert same(through_json(TREES[name]), TREES[name])


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary()
    | st.builds(lambda n: torch.arange(n), st.integers(0, 3))
)
keys = st.integers() | st.text("ab.01", max_size=3) | st.booleans() | st.tuples(st.integers())
trees = st.recursive(
    leaves,
    lambda children: (
        st.lists(children, max_size=3)
        | st.lists(children, max_size=3).map(tuple)
        | st.dictionaries(keys, children, max_size=3)
        | st.dictionaries(keys, children, max_size=3).map(OrderedDict)
    ),
    max_leaves=12,
)


@given(trees)
def test_any_tree_of_plain_data_comes_back_exactly(tree: Any) -> None:
    assert same(through_json(tree), tree)


def test_tensors_whose_paths_read_alike_are_kept_apart() -> None:
    tree = {1: torch.tensor(1), "1": torch.tensor(2), "a": {"b": torch.tensor(3)}, "a.b": torch.tensor(4)}
    assert same(through_json(tree), tree)
    assert len(flatten(tree)[1]) == 4


def test_a_tensor_is_named_by_its_path() -> None:
    _, tensors = flatten({"optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}, "list": [torch.zeros(1)]})
    assert set(tensors) == {"optimizer.state.0.exp_avg", "list.0"}


@pytest.mark.parametrize(
    "value",
    [
        object(),
        print,
        1j,
        torch.float32,
        torch.device("cpu"),
        np.longdouble(1),
        np.array(["x"]),
        np.array([object()]),
        np.datetime64("2024-01-01"),
        torch.eye(2).to_sparse(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_plain_data_is_refused_by_its_path(value: Any) -> None:
    with pytest.raises(Unsupported, match=r"state\.scheduler\.best") as caught:
        flatten({"state": {"scheduler": {"best": value}}})
    assert "\n" not in str(caught.value)


def test_a_skeleton_of_a_newer_version_is_refused() -> None:
    with pytest.raises(CorruptArtifact, match=r"update Esper"):
        unflatten({"quaternion": [1, 2, 3, 4]}, {})


def test_a_numpy_array_read_back_can_be_written_to() -> None:
    frozen = np.arange(3)
    frozen.flags.writeable = False
    (read,) = through_json([frozen])
    read[0] = 9
    assert read.tolist() == [9, 1, 2]
