"""Gate data: read once, in folds, without a trace."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from esper.errors import LossShape, UsageError
from esper.kasmina.gate import GateData, evaluate, per_example


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


def numbered(sizes: list[int]) -> list[Pair]:
    """Batches whose examples carry their index."""
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    indices = [torch.arange(start, start + size) for start, size in zip(starts, sizes, strict=True)]
    return [Pair(index[:, None].float(), index) for index in indices]


def loss(model: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(model(x), y, reduction="none")


@pytest.mark.parametrize("sizes", [[40], [7, 7, 7, 7, 7, 5], [1] * 20, [3, 30, 2]])
def test_the_folds_hold_every_example_once_by_its_index(sizes: list[int]) -> None:
    gate = GateData.read(numbered(sizes), 4, 1)
    assert gate.examples == sum(sizes)
    seen = []
    for k in range(4):
        batches = gate.fold(k)
        assert all(isinstance(batch, Pair) and batch.y.dtype == torch.int64 for batch in batches)
        assert all(len(batch.x) == len(batch.y) <= max(sizes) for batch in batches)
        indices = torch.cat([batch.y for batch in batches])
        assert torch.equal(torch.cat([batch.x for batch in batches])[:, 0], indices.float())
        assert torch.equal(indices, torch.arange(k, sum(sizes), 4))
        seen += indices.tolist()
    assert sorted(seen) == list(range(sum(sizes)))


def test_small_parts_are_joined_to_the_size_the_batches_came_in() -> None:
    gate = GateData.read(numbered([8] * 10), 4, 1)
    assert [len(batch.x) for batch in gate.fold(1)] == [8, 8, 4]


def test_batches_padded_to_different_lengths_stay_apart() -> None:
    batches = [(torch.ones(6, 3), torch.ones(6)), (torch.ones(6, 5), torch.ones(6))]
    gate = GateData.read(batches, 3, 1)
    assert [tuple(x.shape) for x, _ in gate.fold(0)] == [(2, 3), (2, 5)]


def test_the_nesting_is_kept() -> None:
    batch = {"ids": [torch.arange(6), (torch.ones(6, 2, dtype=torch.float16),)], "mask": torch.ones(6).bool()}
    (half,) = GateData.read([batch], 2, 1).fold(1)
    assert half["ids"][0].tolist() == [1, 3, 5]
    assert half["ids"][1][0].dtype == torch.float16
    assert isinstance(half["ids"], list)
    assert isinstance(half["ids"][1], tuple)
    assert half["mask"].dtype == torch.bool


def test_the_digest_depends_on_values_order_types_and_nesting_alone() -> None:
    def digest(batches: list[Any]) -> str:
        return GateData.read(batches, 2, 1).digest

    x = torch.arange(8.0)
    assert digest([[x, x.clone()]]) == digest([[x.clone(), x]])
    negative_zero = x.clone()
    negative_zero[0] = -0.0
    others = [[[x, x.flip(0)]], [[x.double(), x]], [(x, x)], [[x[:4], x[:4]], [x[4:], x[4:]]], [[x, negative_zero]]]
    assert len({digest(other) for other in [[[x, x]], *others]}) == 6


def test_a_loader_that_uses_its_tensors_again_is_read_right() -> None:
    def reusing() -> Iterator[Tensor]:
        buffer = torch.empty(4)
        for value in (1.0, 2.0):
            yield buffer.fill_(value)

    assert torch.cat(GateData.read(reusing(), 2, 1).fold(0)).tolist() == [1.0, 1.0, 2.0, 2.0]


@pytest.mark.parametrize("own", [False, True], ids=["global", "own"])
def test_reading_leaves_no_trace_in_any_generator(own: bool) -> None:
    generator = torch.Generator().manual_seed(3) if own else None
    loader = DataLoader(TensorDataset(torch.arange(40)), batch_size=8, shuffle=True, generator=generator)

    def states() -> list[Any]:
        own_state = [] if generator is None else generator.get_state().tolist()
        return [torch.get_rng_state().tolist(), own_state]

    before = states()
    first = GateData.read(loader, 4, 1)
    assert states() == before
    assert GateData.read(loader, 4, 1).digest == first.digest


def test_what_an_iterable_draws_itself_leaves_no_trace() -> None:
    def drawing() -> Iterator[Tensor]:
        yield torch.rand(8) + random.random() + np.random.rand()

    def states() -> list[Any]:
        return [torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state())]

    before = states()
    first = GateData.read(drawing(), 4, 1)
    assert states() == before
    assert GateData.read(drawing(), 4, 1).digest == first.digest


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([torch.ones(7)], "7 examples, 4 folds need 8"),
        ([], "0 examples"),
        ([torch.ones(300_000)], "larger than 1 MB; give fewer examples or raise gate.limit_mb"),
        ([(torch.ones(4), "cat")], r"gate batch 0\[1\] is a str"),
        ([torch.ones(4), {"x": 3}], r"gate batch 1\['x'\] is a int"),
        ([[]], "gate batch 0 holds no tensor"),
        ([(torch.ones(4), torch.ones(5))], "gate batch 0 do not share a first dimension"),
        ([(torch.ones(4), torch.tensor(1.0))], "gate batch 0 do not share a first dimension"),
    ],
)
def test_gate_data_that_cannot_be_used_is_a_usage_error(batches: list[Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        GateData.read(batches, 4, 1)


def test_reading_stops_at_the_limit() -> None:
    def endless() -> Iterator[Tensor]:
        while True:
            yield torch.ones(50_000)

    with pytest.raises(UsageError, match="larger than 1 MB"):
        GateData.read(endless(), 4, 1)


def test_losses_of_more_dimensions_are_averaged_per_example() -> None:
    assert per_example(torch.tensor([[1.0, 3.0], [5.0, 7.0]])).tolist() == [2.0, 6.0]
    assert per_example(torch.ones(2, 3, 4)).tolist() == [1.0, 1.0]
    losses = torch.ones(3)
    assert per_example(losses) is losses


@pytest.mark.parametrize(
    ("losses", "message"),
    [(torch.tensor(1.0), "a single number"), (1.5, "returned float"), (torch.ones(3).long(), "torch.int64")],
)
def test_a_loss_of_another_shape_is_an_error_that_shows_an_example(losses: Any, message: str) -> None:
    with pytest.raises(LossShape, match=message) as caught:
        per_example(losses)
    assert 'F.cross_entropy(model(x), y, reduction="none")' in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_loss_with_another_number_of_rows_than_examples_is_an_error() -> None:
    with pytest.raises(LossShape, match="returned 2 numbers for 4 examples"):
        evaluate(nn.Identity(), lambda model, batch: model(batch).reshape(2, 2).sum(1), [torch.ones(4)])


def host() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(1, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(8, 40)]
    return nn.Sequential(*layers)


def test_evaluation_is_in_eval_mode_and_gives_every_example_its_loss() -> None:
    model = host()
    batches = GateData.read(numbered([20, 20]), 2, 1).fold(0)
    losses = evaluate(model, loss, batches)
    assert (losses.dtype, losses.shape, losses.requires_grad) == (torch.float64, (20,), False)
    model.eval()
    expected = torch.cat([loss(model, batch) for batch in batches]).double()
    assert torch.equal(losses, expected)


def test_evaluation_leaves_no_trace() -> None:
    model = host()
    model[1].eval()
    batches = GateData.read(numbered([20, 20]), 2, 1).fold(0)
    loss(model, batches[0]).mean().backward()

    def noisy(model: nn.Module, batch: Any) -> Tensor:
        model.train()  # a loss may be careless: it moves batch norm, draws and leaves its mode behind
        torch.rand(1)
        random.random()
        np.random.rand()
        return loss(model, batch)

    def everything() -> list[Any]:
        tensors = [*model.parameters(), *(p.grad for p in model.parameters() if p.grad is not None), *model.buffers()]
        modes = [module.training for module in model.modules()]
        hooks = [len(module._forward_hooks) for module in model.modules()]
        states = [torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state())]
        return [[(id(t), t.detach().clone().tolist()) for t in tensors], modes, hooks, states]

    before = everything()
    evaluate(model, noisy, batches)
    assert everything() == before


def test_the_traces_are_gone_even_if_the_loss_raises() -> None:
    model = host()
    with pytest.raises(LossShape):
        evaluate(model, lambda model, batch: loss(model.train(), batch).sum(), numbered([4]))
    assert all(module.training for module in model.modules())
    assert model[1].num_batches_tracked == 0
