"""Weights with seeds: what a state_dict says of them, and that they load into a host that was built anew."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import esper
from esper.errors import EsperError, ModelMismatch, UsageError
from esper.events.encoding.codec import canonical_json
from esper.kasmina.effect import Effect, attach
from esper.kasmina.seed.seed import holds_seeds
from esper.kasmina.span import Span
from esper.tezzeret.grown import _within, join
from esper.tezzeret.module import Placed
from tests.support.runs.growing import grow

EXTRA = "2.esper_seed_2._extra_state"
PARAMETER = "2.esper_seed_2.down.weight"


class Block(nn.Module):
    """A transformer's block, reduced to its layers: norm, up, down, around which the input goes."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(6), nn.Linear(6, 12), nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.down(torch.relu(self.up(self.norm(x))))
        return result


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2), nn.Flatten(), nn.Linear(36, 3)
    )


def transformer() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), Block(), Block(), nn.LayerNorm(6, elementwise_affine=False), nn.Linear(6, 3))


HOSTS: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...], tuple[int, ...]]] = {
    "mlp": (mlp, ("0", "2", "2"), (5, 4)),
    "cnn": (cnn, ("0", "2", "4"), (5, 1, 8, 8)),
    "transformer": (transformer, ("1.up", "2.norm", "3"), (5, 7, 4)),
}
every_host = pytest.mark.parametrize("kind", HOSTS)


def host(kind: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return HOSTS[kind][0]()


def grown(kind: str = "mlp", seed: int = 3) -> nn.Module:
    return grow(host(kind), *HOSTS[kind][1], seed=seed)


def outputs(model: nn.Module, kind: str = "mlp") -> Tensor:
    model.eval()
    with torch.no_grad():
        result: Tensor = model(torch.randn(HOSTS[kind][2], generator=torch.Generator().manual_seed(9)))
    return result


def fresh(kind: str = "mlp") -> nn.Module:
    """A growable host with other weights."""
    return esper.growable(host(kind, seed=1))


def plain(model: nn.Module, path: Path, kind: str) -> nn.Module:
    other = fresh(kind)
    other.load_state_dict(model.state_dict())
    return other


def torch_save(model: nn.Module, path: Path, kind: str) -> nn.Module:
    torch.save(model.state_dict(), path / "weights.pt")
    other = fresh(kind)
    other.load_state_dict(torch.load(path / "weights.pt", weights_only=True))
    return other


def load_file(model: nn.Module, path: Path, kind: str) -> nn.Module:
    safetensors.torch.save_file(model.state_dict(), path / "weights.safetensors")
    other = fresh(kind)
    other.load_state_dict(safetensors.torch.load_file(path / "weights.safetensors"))
    return other


def load_model(model: nn.Module, path: Path, kind: str) -> nn.Module:
    safetensors.torch.save_model(model, str(path / "weights.safetensors"))
    other = fresh(kind)
    assert safetensors.torch.load_model(other, path / "weights.safetensors") == (set(), [])
    return other


def onto_meta(model: nn.Module, path: Path, kind: str) -> nn.Module:
    with torch.device("meta"):
        other = esper.growable(HOSTS[kind][0]())
    other.load_state_dict(model.state_dict(), assign=True)
    assert not any(each.is_meta for each in other.parameters())
    return other


def averaged(model: nn.Module, path: Path, kind: str) -> nn.Module:
    average = torch.optim.swa_utils.AveragedModel(model)
    average.update_parameters(model)
    other = torch.optim.swa_utils.AveragedModel(fresh(kind))
    other.load_state_dict(average.state_dict())
    return other


def a_copy(model: nn.Module, path: Path, kind: str) -> nn.Module:
    other = copy.deepcopy(fresh(kind))
    other.load_state_dict(copy.deepcopy(model).state_dict())
    return copy.deepcopy(other)


def pickled(model: nn.Module, path: Path, kind: str) -> nn.Module:
    return pickle.loads(pickle.dumps(plain(model, path, kind)))  # type: ignore[no-any-return]  # noqa: S301


def not_strict(model: nn.Module, path: Path, kind: str) -> nn.Module:
    other = fresh(kind)
    assert other.load_state_dict(model.state_dict(), strict=False) == ([], [])
    return other


def onto_other_seeds(model: nn.Module, path: Path, kind: str) -> nn.Module:
    other = grow(fresh(kind), *reversed(HOSTS[kind][1]), HOSTS[kind][1][0], seed=11)
    other.load_state_dict(model.state_dict())
    return other


def within_another(model: nn.Module, path: Path, kind: str) -> nn.Module:
    outer = nn.ModuleDict({"trunk": fresh(kind)})
    outer.load_state_dict({f"trunk.{name}": each for name, each in model.state_dict().items()})
    return outer["trunk"]


def built_from_file(model: nn.Module, path: Path, kind: str) -> nn.Module:
    safetensors.torch.save_file(
        {f"module.{name}": each for name, each in model.state_dict().items()}, path / "w.safetensors"
    )
    return esper.build(path / "w.safetensors", host(kind, seed=1))


def built_from_a_program(model: nn.Module, path: Path, kind: str) -> nn.Module:
    state = {f"_orig_mod.{name}": each for name, each in model.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}}, path / "w.pt")
    return esper.build(path / "w.pt", host(kind, seed=1))


def built_on_meta(model: nn.Module, path: Path, kind: str) -> nn.Module:
    with torch.device("meta"):
        other = HOSTS[kind][0]()
    return esper.build(model.state_dict(), other)


def built_from_an_average(model: nn.Module, path: Path, kind: str) -> nn.Module:
    return esper.build(torch.optim.swa_utils.AveragedModel(model).state_dict(), host(kind, seed=1))


SOURCES = [
    plain,
    torch_save,
    load_file,
    load_model,
    onto_meta,
    averaged,
    a_copy,
    pickled,
    not_strict,
    onto_other_seeds,
    within_another,
    built_from_file,
    built_from_a_program,
    built_on_meta,
    built_from_an_average,
]


@every_host
@pytest.mark.parametrize("source", SOURCES)
def test_what_was_grown_loads_exactly(tmp_path: Path, kind: str, source: Callable[..., nn.Module]) -> None:
    model = grown(kind)
    assert not torch.equal(outputs(model, kind), outputs(host(kind), kind))
    other = source(model, tmp_path, kind)
    assert torch.equal(outputs(other, kind), outputs(model, kind))
    assert all(each.requires_grad for each in other.parameters())
    loss = other.train()(torch.randn(HOSTS[kind][2])).square().mean()
    loss.backward()
    assert all(each.grad is not None for name, each in other.named_parameters() if "esper_seed" in name)


def test_a_description_is_one_row_of_bytes_of_canonical_json() -> None:
    value = grown().state_dict()[EXTRA]
    assert (value.dtype, value.dim(), value.device.type) == (torch.uint8, 1, "cpu")
    said = json.loads(bytes(value.tolist()))
    assert bytes(value.tolist()).decode() == canonical_json(said)
    digest = said.pop("digest")
    assert digest == hashlib.sha256(canonical_json(said).encode()).hexdigest()
    assert (said["format"], said["entry"], said["exit"], said["dims"]) == (1, "2", "2", [8, 8])
    assert (said["dtype"], said["alpha"], said["graph"]["kind"]) == ("torch.float32", 1.0, "Linear")


def test_a_seed_that_blends_keeps_its_share() -> None:
    model = grown()
    kernel = model.get_submodule("4").weight  # a host's own parameter is no seed
    assert isinstance(kernel, nn.Parameter)
    blending = grow(host("mlp"), "0")
    part = blending.get_submodule("0.esper_seed_1")
    hook = next(each for each in blending.get_submodule("0")._forward_hooks.values() if isinstance(each, Effect))
    part.placed = Placed("0", "0", (4, 8), 0.25)  # type: ignore[assignment]
    hook.alpha = lambda: 0.25
    other = fresh()
    other.load_state_dict(blending.state_dict())
    assert torch.equal(outputs(other), outputs(blending))


def test_a_seed_over_several_layers_finds_its_entry_wherever_the_model_is() -> None:
    def spanned(model: nn.Module) -> nn.Module:
        other = grow(host("transformer"), "1.up")
        kernel = other.get_submodule("1.up.esper_seed_1")
        join(model, copy.deepcopy(kernel), Placed("1.up", "2.up", (6, 12)), "esper_seed_1")  # type: ignore[arg-type]
        return model

    model = spanned(host("transformer"))
    other = fresh("transformer")
    other.load_state_dict(model.state_dict())
    assert torch.equal(outputs(other, "transformer"), outputs(model, "transformer"))
    deeper = esper.growable(nn.ModuleDict({"a": nn.ModuleDict({"b": host("transformer", seed=1)})}))
    deeper.load_state_dict({f"a.b.{name}": each for name, each in model.state_dict().items()})
    assert torch.equal(outputs(deeper["a"]["b"], "transformer"), outputs(model, "transformer"))  # type: ignore[index]
    assert not torch.equal(outputs(model, "transformer"), outputs(host("transformer"), "transformer"))


def test_without_growable_a_grown_model_is_refused_by_torch_itself() -> None:
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\).*_extra_state"):
        host("mlp").load_state_dict(grown().state_dict())


def test_weights_without_seeds_make_a_growable_model_ungrown_if_they_are_whole() -> None:
    model = esper.growable(grown())
    part = {name: each for name, each in host("mlp", seed=5).state_dict().items() if name.startswith("4.")}
    model.load_state_dict(part, strict=False)
    assert holds_seeds(model)
    model.load_state_dict(host("mlp", seed=5).state_dict())
    assert not holds_seeds(model)
    assert torch.equal(outputs(model), outputs(host("mlp", seed=5)))


def test_a_part_of_grown_weights_may_be_loaded_where_that_is_asked_for() -> None:
    state = {name: each for name, each in grown().state_dict().items() if not name.startswith("4.")}
    model = fresh()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["4.weight", "4.bias"], [])
    assert torch.equal(outputs(model[:4]), outputs(grown()[:4]))  # type: ignore[index]


def test_seeds_that_are_there_already_stay_the_same_parameters() -> None:
    model = esper.growable(grown())
    before = list(model.parameters())
    model.load_state_dict(grown(seed=8).state_dict())
    assert all(a is b for a, b in zip(before, model.parameters(), strict=True))
    assert torch.equal(outputs(model), outputs(grown(seed=8)))


def test_a_span_in_a_list_of_modules_is_refused() -> None:
    parts = nn.ModuleList([nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2))])
    with pytest.raises(ModelMismatch, match="modules of a list"):
        _within(parts, Placed("0.0", "1.0", (2, 2), 1.0))


def test_calling_growable_again_changes_nothing() -> None:
    model = fresh()
    assert esper.growable(model) is model
    assert len(model._load_state_dict_pre_hooks) == 1


def altered(change: Callable[[dict[str, Any]], Any], digest: bool = True) -> dict[str, Tensor]:
    """The weights of a grown model, what one seed says of itself being changed."""
    state = grown().state_dict()
    said = json.loads(bytes(state[EXTRA].tolist()))
    change(said)
    if digest:
        del said["digest"]
        said["digest"] = hashlib.sha256(canonical_json(said).encode()).hexdigest()
    state[EXTRA] = torch.tensor(list(canonical_json(said).encode()), dtype=torch.uint8)
    return state


def oversized(said: dict[str, Any]) -> None:
    """A graph whose layers would take all memory there is."""
    text = json.dumps(said["graph"]).replace('"out_size": ', '"out_size": 99999')
    said["graph"] = json.loads(text)


def without(name: str) -> dict[str, Tensor]:
    return {key: each for key, each in grown().state_dict().items() if key != name}


def with_value(value: Any) -> dict[str, Any]:
    return {**grown().state_dict(), EXTRA: value}


def mean() -> dict[str, Tensor]:
    one, two = grown().state_dict(), grown(seed=4).state_dict()
    return {name: (each + two[name]) / 2 for name, each in one.items()}


def moved() -> dict[str, Tensor]:
    return {name.replace("2.esper_seed_2", "9.esper_seed_2"): each for name, each in grown().state_dict().items()}


BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: altered(lambda said: said.update(format=2)), r"2\.esper_seed_2.*format is 2, this Esper reads 1: update"),
    (lambda: altered(lambda said: said.update(alpha=0.5), digest=False), "its digest is another"),
    (lambda: altered(lambda said: said["graph"].update(dtype="torch.int3")), "its dtype|unknown"),
    (lambda: altered(lambda said: said.update(graph={"format": 1})), "does not describe a seed"),
    (lambda: altered(lambda said: said.update(entry="7.x")), "where the model has no module|not in this part"),
    (mean, "torch.float32 .*was it averaged, cast or quantised"),
    (lambda: with_value(torch.zeros(3, 3, dtype=torch.uint8)), r"of shape \[3, 3\]"),
    (lambda: with_value({"graph": 1}), "it is dict"),
    (lambda: with_value(torch.zeros(70_000, dtype=torch.uint8)), "70,000 bytes, 64,000 are allowed"),
    (lambda: with_value(torch.tensor([1, 2, 255], dtype=torch.uint8)), "does not describe a seed"),
    (lambda: without(EXTRA), "do not say what it is made of; an older Esper saved them"),
    (lambda: without("0.weight"), "they have no 0.weight"),
    (lambda: grown().state_dict() | {"9.weight": torch.zeros(1)}, "it has no 9.weight"),
    (lambda: grow(nn.Sequential(nn.Linear(4, 9)), "0").state_dict(), r"0\.weight is \[9, 4\], in the model \[8, 4\]"),
    (moved, "a seed at '9', where the model has no module"),
    (lambda: without(PARAMETER), f"the weights have no {PARAMETER}"),
    (lambda: grown().state_dict() | {PARAMETER: torch.zeros(3)}, rf"{PARAMETER} is \[3\], and its seed says"),
    (lambda: grown().state_dict() | {"2.esper_seed_2.more": torch.zeros(1)}, "seed_2.more is no tensor of its seed"),
    (lambda: altered(oversized), "parameters are allowed|is \\[.*and its seed says"),
]  # fmt: skip


@pytest.mark.parametrize(("state", "words"), BAD)
def test_weights_that_cannot_be_used_are_one_line_and_change_nothing(state: Callable[[], Any], words: str) -> None:
    model = fresh()
    before, names = outputs(model), list(model.state_dict())
    with pytest.raises(ModelMismatch, match=words) as caught:
        model.load_state_dict(state())
    assert "\n" not in str(caught.value)
    assert list(model.state_dict()) == names
    assert torch.equal(outputs(model), before)


@pytest.mark.parametrize(("state", "words"), BAD)
def test_build_refuses_them_too(state: Callable[[], Any], words: str) -> None:
    with pytest.raises(ModelMismatch):
        esper.build(state(), host("mlp"))


def test_a_model_that_a_run_grows_now_is_not_changed_under_it() -> None:
    model = esper.growable(host("mlp"))
    attach(Effect(nn.Linear(4, 8)), Span.of(model.get_submodule("0")))
    with pytest.raises(UsageError, match="a run grows this model now"):
        model.load_state_dict(grown().state_dict())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
        self.head.weight = self.body.weight
        self.out = nn.Linear(4, 3)
        self.register_buffer("mask", torch.ones(4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.out(self.head(self.body(x * self.mask)))
        return result


def test_a_name_of_a_shared_tensor_may_be_left_out_and_a_buffer_that_is_not_saved_may_be_there(tmp_path: Path) -> None:
    model = grow(Tied(), "out")
    safetensors.torch.save_model(model, str(tmp_path / "w.safetensors"))
    state = safetensors.torch.load_file(tmp_path / "w.safetensors") | {"mask": torch.ones(4)}
    other = esper.build({f"model.{name}": each for name, each in state.items()}, Tied())
    assert torch.equal(outputs(other), outputs(model))
    assert other.head.weight is other.body.weight


def test_a_part_of_a_model_is_built_from_the_weights_of_the_whole() -> None:
    whole = nn.ModuleDict({"encoder": grown(), "head": nn.Linear(2, 2)})
    assert torch.equal(outputs(esper.build(whole.state_dict(), host("mlp", seed=1))), outputs(whole["encoder"]))


def test_a_half_of_the_precision_follows_the_host() -> None:
    model = grown().bfloat16()
    other = esper.build(model.state_dict(), host("mlp", seed=1).bfloat16())
    assert {each.dtype for each in other.parameters()} == {torch.bfloat16}
    x = torch.randn(5, 4).bfloat16()
    assert torch.equal(other.eval()(x), model.eval()(x))


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path / "nothing.pt", "does not exist"),
        (lambda path: path, "holds no weights; it should have one of model.safetensors"),
        (lambda path: write(path / "w.safetensors", b"nonsense"), "cannot be read as weights"),
        (lambda path: write(path / "w.pt", b"nonsense"), "cannot be read as weights|more than tensors"),
        (lambda path: write(path / "w.pt", pickle.dumps(Path)), "cannot be read as weights|more than tensors"),
    ],
)
def test_a_source_that_is_none_is_one_line(tmp_path: Path, make: Callable[[Path], Path], words: str) -> None:
    with pytest.raises(EsperError, match=words) as caught:
        esper.build(make(tmp_path), host("mlp"))
    assert "\n" not in str(caught.value)


def test_a_whole_module_that_was_pickled_is_never_unpickled(tmp_path: Path) -> None:
    torch.save(grown(), tmp_path / "whole.pt")
    with pytest.raises(UsageError, match="holds more than tensors, which is never unpickled; save a state_dict"):
        esper.build(tmp_path / "whole.pt", host("mlp"))
