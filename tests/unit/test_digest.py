"""Digests: equal for equal state in every process, different for any difference."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from esper.tolaria.digest import batch_digest, digest_tree, tensor_digest
from tests.adapters import ROOT


def tree() -> dict[str, Any]:
    return {"model": {"w": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(2)}, "rates": (0.1, {1, 2, "x"}), "n": 3}


def test_a_tensors_digest_covers_its_dtype_shape_and_bits() -> None:
    base = torch.zeros(4)
    others = [torch.zeros(2, 2), torch.zeros(4, dtype=torch.int32), torch.tensor([0.0, 0, 0, -0.0]), torch.zeros(0)]
    assert len({tensor_digest(each) for each in [base, *others]}) == 5
    assert tensor_digest(base) == tensor_digest(torch.zeros(8)[::2])
    assert tensor_digest(torch.zeros(0, 2)) != tensor_digest(torch.zeros(2, 0))


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t["model"]["w"][1].add_(1e-6),
        lambda t: t.update(n=4),
        lambda t: t.update(n=3.0),
        lambda t: t.update(rates=[0.1, {1, 2, "x"}]),
        lambda t: t["model"].update(c=torch.zeros(2)),
        lambda t: t["model"].update(w=t["model"].pop("b"), b=t["model"]["w"]),
    ],
)
def test_any_change_changes_the_digest_of_the_state(change: Any) -> None:
    changed = tree()
    change(changed)
    assert digest_tree(changed).digest != digest_tree(tree()).digest


def test_the_first_tensor_that_differs_is_named() -> None:
    then, now = digest_tree(tree()), tree()
    now["model"]["w"][0, 0] = 5
    assert digest_tree(now).first_difference(then.tensors) == "model.w"
    now["model"]["b"][0] = 5
    assert digest_tree(now).first_difference(then.tensors) == "model.b"
    assert digest_tree({**tree(), "n": 4}).first_difference(then.tensors) == "a value that is not a tensor"
    assert "2 then" in digest_tree({"w": torch.zeros(1)}).first_difference(then.tensors)


def test_the_digest_is_equal_in_another_process_with_another_hash_seed() -> None:
    program = "from tests.unit.test_digest import *; print(digest_tree(tree()).digest, batch_digest([{'a': 'b'}]))"
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == [digest_tree(tree()).digest, batch_digest([{"a": "b"}])]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([torch.zeros(2), torch.zeros(2)], [torch.zeros(4)]),
        ({"x": torch.zeros(1)}, {"y": torch.zeros(1)}),
        ("a", b"a"),
        (1, 1.0),
        (["a", "b"], ["ab"]),
        ([[1], 2], [[1, 2]]),
        (np.zeros(2, "f4"), np.zeros(2, "f8")),
        (None, False),
    ],
)
def test_batches_that_differ_have_different_digests(one: Any, other: Any) -> None:
    assert batch_digest(one) != batch_digest(other)


def test_arrays_and_objects_in_a_batch_are_digested() -> None:
    assert batch_digest(np.arange(3)) == batch_digest(np.arange(3).copy())
    assert batch_digest([object()]) == batch_digest([object()])
