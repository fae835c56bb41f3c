"""Digests: equal for equal state in every process, different for any difference."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from esper.tolaria.model.digest import (
    ALGORITHMS,
    batch_digest,
    digest_of,
    digest_tree,
    tensor_bytes,
    tensor_digest,
)
from tests.support.services.adapters import ROOT

by_each = pytest.mark.parametrize("algorithm", ALGORITHMS)


def tree() -> dict[str, Any]:
    return {"model": {"w": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(2)}, "rates": (0.1, {1, 2, "x"}), "n": 3}


@by_each
def test_a_tensors_digest_covers_its_dtype_shape_and_bits(algorithm: str) -> None:
    base = torch.zeros(4)
    others = [torch.zeros(2, 2), torch.zeros(4, dtype=torch.int32), torch.tensor([0.0, 0, 0, -0.0]), torch.zeros(0)]
    assert len({tensor_digest(each, algorithm) for each in [base, *others]}) == 5
    assert tensor_digest(base, algorithm) == tensor_digest(torch.zeros(8)[::2], algorithm)
    assert tensor_digest(torch.zeros(0, 2), algorithm) != tensor_digest(torch.zeros(2, 0), algorithm)


@by_each
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.uint8])
def test_one_flipped_bit_changes_the_digest_and_names_its_tensor(algorithm: str, dtype: torch.dtype) -> None:
    state = {"model": {"a": torch.ones(3), "w": torch.ones(1000, dtype=dtype), "z": torch.ones(3)}}
    then = digest_tree(state, algorithm)
    state["model"]["w"].view(torch.uint8)[777] ^= 1
    now = digest_tree(state, algorithm)
    assert now.digest != then.digest
    assert now.first_difference(then.tensors) == "model.w"


def test_a_contiguous_tensor_on_the_cpu_is_read_where_it_lies() -> None:
    weights = torch.nn.Parameter(torch.zeros(4, 3))
    read = tensor_bytes(weights)
    weights.data[0, 0] = -0.0  # the sign alone: the last bit of four bytes
    assert read[3] == 0x80


def test_the_state_is_digested_by_the_published_hashes() -> None:
    empty = {"sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}
    empty["xxh3_128"] = "99aa06d3014798d86001c324468d497f"
    assert {name: hasher(b"").hexdigest() for name, hasher in ALGORITHMS.items()} == empty


def test_what_the_log_and_the_artifacts_hold_stays_sha_256() -> None:
    assert len(digest_tree(tree()).digest) == len(batch_digest([1])) == 64
    assert len(tensor_digest(torch.zeros(1))) == len(digest_of({}, {}).digest) // 2 == 32
    assert len(digest_tree(tree(), "xxh3_128").digest) == 32


@by_each
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
def test_any_change_changes_the_digest_of_the_state(change: Any, algorithm: str) -> None:
    changed = tree()
    change(changed)
    assert digest_tree(changed, algorithm).digest != digest_tree(tree(), algorithm).digest


@by_each
def test_the_first_tensor_that_differs_is_named(algorithm: str) -> None:
    then, now = digest_tree(tree(), algorithm), tree()
    now["model"]["w"][0, 0] = 5
    assert digest_tree(now, algorithm).first_difference(then.tensors) == "model.w"
    now["model"]["b"][0] = 5
    assert digest_tree(now, algorithm).first_difference(then.tensors) == "model.b"
    assert digest_tree({**tree(), "n": 4}, algorithm).first_difference(then.tensors) == "a value that is not a tensor"
    assert "2 then" in digest_tree({"w": torch.zeros(1)}, algorithm).first_difference(then.tensors)


def test_the_digests_are_equal_in_another_process_with_another_hash_seed() -> None:
    program = "from tests.unit.tolaria.model.test_digest import *; print(*digests())"
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == digests()


def digests() -> list[str]:
    return [batch_digest([{"a": "b"}]), *(digest_tree(tree(), algorithm).digest for algorithm in ALGORITHMS)]


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
