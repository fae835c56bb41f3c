from __future__ import annotations

import copy
import hashlib
import json
import random
import re
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from esper.artifacts import ArtifactStore, open_store
from esper.errors import CorruptArtifact, UsageError
from esper.events.assets import BlueprintRegistered, KernelCompiled, KernelRejected, KernelRequested
from esper.events.encoding.codec import jsonable
from esper.kasmina.kinds import KINDS
from esper.tezzeret import Kernel, build, compile_kernel, load_kernel
from esper.tezzeret.birth import examine
from esper.tezzeret.kernel import kernel_bytes, kernel_key, save_kernel
from esper.urza import built_in, parameter_count
from esper.urza.blueprint import registration
from tests.support.runs.sites import requested, site_at

BLUEPRINTS = {content.name: content for content in built_in().values()}

SITES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(20, 10), (3, 20)),
    "linear of one": (nn.Linear(1, 1), (3, 1)),
    "linear of a sequence": (nn.Linear(8, 6, bias=False), (2, 5, 8)),
    "linear in double": (nn.Linear(8, 6, dtype=torch.float64), (3, 8)),
    "linear in bfloat16": (nn.Linear(8, 6, dtype=torch.bfloat16), (3, 8)),
    "conv 3x3": (nn.Conv2d(6, 8, 3, padding=1), (2, 6, 9, 7)),
    "conv of one image": (nn.Conv2d(6, 8, 3, padding=1), (6, 9, 7)),
    "conv of one channel": (nn.Conv2d(1, 8, 5), (2, 1, 9, 7)),
    "conv 1x1": (nn.Conv2d(6, 8, 1), (2, 6, 9, 7)),
    "conv 1x1 strided": (nn.Conv2d(6, 8, 1, stride=2), (2, 6, 9, 7)),
    "conv strided": (nn.Conv2d(6, 8, 3, stride=(2, 1), padding=1), (2, 6, 9, 7)),
    "conv oblong": (nn.Conv2d(6, 8, (5, 2), stride=(3, 2), padding=(2, 0), dilation=(1, 2)), (2, 6, 12, 11)),
    "conv same": (nn.Conv2d(6, 8, 3, padding="same", dilation=2), (2, 6, 9, 7)),
    "conv same, even": (nn.Conv2d(6, 8, (4, 2), padding="same"), (2, 6, 9, 7)),
    "conv valid": (nn.Conv2d(6, 8, 3, padding="valid", dilation=2), (2, 6, 9, 7)),
    "conv reflecting": (nn.Conv2d(6, 8, 7, padding=3, padding_mode="reflect"), (2, 6, 9, 7)),
    "conv circular": (nn.Conv2d(6, 8, 3, padding=2, padding_mode="circular"), (2, 6, 9, 7)),
    "conv in groups": (nn.Conv2d(6, 12, 3, padding=1, groups=3), (2, 6, 9, 7)),
    "conv channels last": (nn.Conv2d(6, 8, 3).to(memory_format=torch.channels_last), (2, 6, 9, 7)),
}
PAIRS = [
    pytest.param(blueprint, *site, id=f"{blueprint.name}, {name}")
    for name, site in SITES.items()
    for blueprint in BLUEPRINTS.values()
    if type(site[0]).__name__ in blueprint.kinds
]
# torch says once per process that an even kernel with padding "same" may need a copy.
pytestmark = [pytest.mark.filterwarnings("ignore:Using padding='same'"), pytest.mark.usefixtures("one_thread")]


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return open_store(f"file:///{tmp_path}")


def site_weight(site: nn.Module) -> Tensor:
    weight = site.weight
    assert isinstance(weight, Tensor)
    return weight


def input_for(site: nn.Module, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5)).to(site_weight(site))


def compiled(
    store: ArtifactStore, blueprint: BlueprintRegistered, site: nn.Module, **more: Any
) -> tuple[KernelCompiled | KernelRejected, Any]:
    return compile_kernel(store, blueprint, requested(blueprint, site), **more)


def built(name: str, site: nn.Module) -> Kernel:
    return build(BLUEPRINTS[name], requested(BLUEPRINTS[name], site))


def bits(module: nn.Module) -> dict[str, bytes]:
    return {
        name: tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.dim() else b""
        for name, tensor in module.state_dict().items()
    }


def generators() -> tuple[bytes, bytes, object]:
    return torch.get_rng_state().numpy().tobytes(), str(np.random.get_state(legacy=False)).encode(), random.getstate()


@pytest.mark.parametrize(("blueprint", "site", "shape"), PAIRS)
def test_a_newborn_kernel_gives_exact_zeros_of_the_shape_of_the_sites_output(
    store: ArtifactStore, blueprint: BlueprintRegistered, site: nn.Module, shape: tuple[int, ...]
) -> None:
    content, kernel = compiled(store, blueprint, site)
    assert isinstance(content, KernelCompiled), content
    x = input_for(site, shape)
    effect = kernel(x)
    assert effect.shape == site(x).shape
    assert effect.dtype == site.weight.dtype
    assert not effect.any()


@pytest.mark.parametrize(("blueprint", "site", "shape"), PAIRS)
def test_the_count_without_torch_is_that_of_the_compiled_kernel(
    store: ArtifactStore, blueprint: BlueprintRegistered, site: nn.Module, shape: tuple[int, ...]
) -> None:
    content, kernel = compiled(store, blueprint, site, sample_input=input_for(site, shape))
    assert isinstance(content, KernelCompiled), content
    count = sum(parameter.numel() for parameter in kernel.parameters())
    assert parameter_count(blueprint, content.kind, content.dims) == count == content.parameters


@pytest.mark.parametrize(
    ("blueprint", "site", "shape"), [pair for pair in PAIRS if str(pair.id).endswith((", linear", ", conv 3x3"))]
)
def test_a_kernel_learns_in_every_parameter(
    store: ArtifactStore, blueprint: BlueprintRegistered, site: nn.Module, shape: tuple[int, ...]
) -> None:
    _, kernel = compiled(store, blueprint, site)
    before = {name: each.detach().clone() for name, each in kernel.named_parameters()}
    optimizer = torch.optim.SGD(kernel.parameters(), lr=0.1)
    x = input_for(site, shape)
    for _ in range(2):  # the output projection moves first, the rest after it
        optimizer.zero_grad()
        (kernel(x) - site(x).detach()).square().mean().backward()
        optimizer.step()
    assert all(not torch.equal(tensor, before[key]) for key, tensor in kernel.named_parameters())


@pytest.mark.parametrize(("blueprint", "site", "shape"), PAIRS)
def test_building_and_compiling_leave_no_trace(
    store: ArtifactStore, blueprint: BlueprintRegistered, site: nn.Module, shape: tuple[int, ...]
) -> None:
    called: list[str] = []
    handle = site.register_forward_hook(lambda *_: called.append("forward"))
    generators_before, site_before = generators(), bits(site)
    build(blueprint, requested(blueprint, site))
    content, _ = compiled(store, blueprint, site, sample_input=input_for(site, shape).requires_grad_())
    load_kernel(store, content.kernel)  # type: ignore[union-attr]
    handle.remove()
    assert generators() == generators_before
    assert bits(site) == site_before
    assert not called
    assert site.weight.grad is None


def test_an_ordinary_layer_does_leave_a_trace_in_the_generator() -> None:
    for make in (lambda: nn.Linear(20, 10), lambda: nn.Conv2d(6, 8, 3)):
        before = generators()
        make()
        assert generators() != before


def test_compiling_does_not_depend_on_global_generators_defaults_or_modes(store: ArtifactStore) -> None:
    site, _ = SITES["linear"]
    expected, _ = compiled(store, BLUEPRINTS["low_rank"], site)
    torch.manual_seed(123)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.float16):
            # Beyond what float16 can hold: it must be examined in the kernel's own dtype.
            content, kernel = compiled(store, BLUEPRINTS["low_rank"], site, sample_input=torch.full((4, 20), 1e5))
    finally:
        torch.set_default_dtype(torch.float32)
    assert replace(content, measured=None) == replace(expected, measured=None)
    assert all(parameter.dtype == torch.float32 and parameter.requires_grad for parameter in kernel.parameters())


def test_the_same_seed_gives_the_same_kernel_and_another_seed_another(store: ArtifactStore) -> None:
    site, _ = SITES["conv 3x3"]
    blueprint = BLUEPRINTS["depthwise_conv"]
    kernels = [
        compile_kernel(store, blueprint, requested(blueprint, site, seed))[0].kernel  # type: ignore[union-attr]
        for seed in (1, 1, 2)
    ]
    assert kernels[0] == kernels[1] != kernels[2]
    assert len(list(store.keys("kernels/"))) == 2


def test_a_kernel_is_addressed_by_the_digest_of_its_bytes(store: ArtifactStore) -> None:
    content, _ = compiled(store, BLUEPRINTS["low_rank"], SITES["linear"][0])
    assert isinstance(content, KernelCompiled)
    data = store.get(kernel_key(content.kernel), content.kernel)
    assert hashlib.sha256(data).hexdigest() == content.kernel
    assert len(data) == content.size


@pytest.mark.parametrize(("blueprint", "site", "shape"), PAIRS)
def test_a_loaded_kernel_is_the_built_one_bit_for_bit(
    store: ArtifactStore, blueprint: BlueprintRegistered, site: nn.Module, shape: tuple[int, ...]
) -> None:
    built = build(blueprint, requested(blueprint, site))
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.1)
    sha256, _ = save_kernel(store, built)
    loaded = load_kernel(store, sha256)
    # Memory that torch allocated itself, and so aligned as it likes: only that can be resized.
    assert all(parameter.untyped_storage().resizable() for parameter in loaded.parameters())
    x = input_for(site, shape)
    assert bits(loaded) == bits(built)
    assert torch.equal(loaded(x), built(x))
    assert loaded.graph == built.graph
    assert kernel_bytes(loaded) == kernel_bytes(built)


@pytest.mark.parametrize("name", ["conv oblong", "conv same", "conv reflecting", "conv circular"])
def test_the_middle_convolution_has_the_geometry_of_the_site_and_the_others_are_points(name: str) -> None:
    site = SITES[name][0]
    kernel = built("bottleneck_conv", site)
    for attribute in ("kernel_size", "stride", "padding", "dilation", "padding_mode"):
        assert getattr(kernel.get_submodule("mid"), attribute) == getattr(site, attribute)
        assert getattr(kernel.get_submodule("up"), attribute) == getattr(nn.Conv2d(1, 1, 1), attribute)


def test_a_kernel_can_be_copied_and_its_names_are_those_of_its_nodes() -> None:
    kernel = built("bottleneck_mlp", SITES["linear"][0])
    twin = copy.deepcopy(kernel)
    assert bits(twin) == bits(kernel)
    assert list(kernel.state_dict()) == ["_extra_state", "down.weight", "down.bias", "up.weight"]


def test_initial_weights_have_the_variance_of_he_and_others() -> None:
    weight = built("bottleneck_mlp", nn.Linear(2000, 10)).get_parameter("down.weight")
    assert weight.var().item() == pytest.approx(2 / 2000, rel=0.05)
    assert abs(weight.mean().item()) < 1e-3


# What is refused, and how


def spoiled(name: str, change: Any) -> BlueprintRegistered:
    raw = json.loads(BLUEPRINTS[name].definition)
    change(raw["graphs"])
    return registration(json.dumps(raw))


def set_node(kind: str, index: int, **values: Any) -> Any:
    return lambda graphs: graphs[kind]["nodes"][index].update(values)


def set_size(kind: str, **values: Any) -> Any:
    return lambda graphs: graphs[kind]["sizes"].update(values)


def rename_to_forward(graphs: Any) -> None:
    _, act, up = graphs["Linear"]["nodes"]
    act["name"] = up["input"] = "forward"


@pytest.mark.parametrize(
    ("name", "site", "change", "reason"),
    [
        ("bottleneck_mlp", "linear", set_node("Linear", 0, out="width"), "'width' is not defined"),
        ("bottleneck_mlp", "linear", set_size("Linear", hidden=10**9), "parameters; 1 to 50000000 are allowed"),
        ("bottleneck_mlp", "linear", set_node("Linear", 2, out=9), "its output has size 9, the site's 10"),
        ("bottleneck_mlp", "linear", rename_to_forward, "a name that is taken"),
        ("bottleneck_mlp", "linear", set_node("Linear", 2, weight="kaiming"), "its effect is not zero at birth"),
        (
            "bottleneck_mlp",
            "linear",
            set_node("Linear", 0, weight="zeros"),
            "gradient that reaches .* is missing",
        ),
        ("bottleneck_mlp", "linear", set_node("Linear", 2, input="x"), "gradient that reaches down.weight is missing"),
        ("bottleneck_mlp", "conv 3x3", set_size("Linear"), "it is for Linear, not for Conv2d"),
        ("depthwise_conv", "conv 1x1 strided", set_node("Conv2d", 2, geometry="site"), "has shape"),
        ("depthwise_conv", "conv valid", set_node("Conv2d", 0, geometry="point"), "its effect has shape"),
    ],
)
def test_a_bad_blueprint_is_rejected_in_words_and_leaves_nothing(
    store: ArtifactStore, name: str, site: str, change: Any, reason: str
) -> None:
    before = generators()
    content, kernel = compiled(store, spoiled(name, change), SITES[site][0])
    assert isinstance(content, KernelRejected)
    assert kernel is None
    assert content.reason
    assert "\n" not in content.reason
    assert re.search(reason, content.reason), content.reason
    assert list(store.keys()) == []
    assert generators() == before


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"op":"gelu"', '"op":"attention"', "'attention'"),
        ('"version":1', '"version":1,"code":"import os"', "code"),
        ('"out":"hidden",', "", "out: Field required"),
        ('"name":', "", "Invalid JSON"),
    ],
)
def test_a_registered_definition_that_cannot_be_read_is_rejected_in_words(
    store: ArtifactStore, old: str, new: str, reason: str
) -> None:
    definition = BLUEPRINTS["bottleneck_mlp"].definition.replace(old, new, 1)
    digest = hashlib.sha256(definition.encode()).hexdigest()[:12]
    blueprint = replace(BLUEPRINTS["bottleneck_mlp"], definition=definition, blueprint=f"bottleneck_mlp@{digest}")
    content, kernel = compiled(store, blueprint, SITES["linear"][0])
    assert isinstance(content, KernelRejected)
    assert kernel is None
    assert reason in content.reason


def test_a_definition_that_is_not_the_one_of_its_id_is_rejected(store: ArtifactStore) -> None:
    blueprint = replace(BLUEPRINTS["low_rank"], definition=BLUEPRINTS["bottleneck_mlp"].definition)
    content, _ = compiled(store, blueprint, SITES["linear"][0])
    assert isinstance(content, KernelRejected)
    assert "is not the one that its id names" in content.reason
    assert parameter_count(blueprint, "Linear", (20, 10)) == -1


def test_dims_that_no_site_of_the_kind_has_are_rejected(store: ArtifactStore) -> None:
    blueprint = BLUEPRINTS["low_rank"]
    for dims in ((20, 11, 1), (20, 0)):
        request = replace(requested(blueprint, nn.Linear(20, 10)), dims=dims)
        content, _ = compile_kernel(store, blueprint, request)
        assert isinstance(content, KernelRejected)
        assert "dims" in content.reason


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_an_input_through_which_nothing_can_be_learned_is_rejected(store: ArtifactStore, value: float) -> None:
    sample = torch.full((4, 20), value)
    content, _ = compiled(store, BLUEPRINTS["bottleneck_mlp"], SITES["linear"][0], sample_input=sample)
    assert isinstance(content, KernelRejected)
    assert "gradient" in content.reason or "not finite" in content.reason


def test_an_input_of_another_shape_is_rejected(store: ArtifactStore) -> None:
    content, _ = compiled(store, BLUEPRINTS["low_rank"], SITES["linear"][0], sample_input=torch.ones(4, 21))
    assert isinstance(content, KernelRejected)
    assert "shapes cannot be multiplied" in content.reason


def test_an_integer_site_is_rejected(store: ArtifactStore) -> None:
    site = nn.Linear(4, 4)
    site.weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)
    assert site_at(site, "").reason == "its weight is torch.int8"
    content, _ = compiled(store, BLUEPRINTS["low_rank"], site)
    assert isinstance(content, KernelRejected)
    assert "torch.int8" in content.reason


def test_a_kind_of_site_that_is_unknown_is_rejected_saying_what_there_is(store: ArtifactStore) -> None:
    blueprint = BLUEPRINTS["low_rank"]
    request = replace(requested(blueprint, nn.Linear(4, 4)), kind="Attention")
    content, _ = compile_kernel(store, blueprint, request)
    assert isinstance(content, KernelRejected)
    assert f"no kind of site 'Attention'; there are {', '.join(KINDS.all)}" in content.reason


@pytest.mark.parametrize("geometry", ["", "{", '{"padding": [1, 1], "code": "import os"}', '{"padding": [-1, 0]}'])
def test_a_geometry_that_no_site_of_the_kind_has_is_rejected(store: ArtifactStore, geometry: str) -> None:
    blueprint = BLUEPRINTS["low_rank"]
    content, _ = compile_kernel(store, blueprint, replace(requested(blueprint, nn.Conv2d(2, 2, 3)), geometry=geometry))
    assert isinstance(content, KernelRejected)
    assert "\n" not in content.reason


@pytest.mark.parametrize("missing", ["geometry", "dtype"])
def test_a_request_that_does_not_say_all_is_refused_not_guessed(store: ArtifactStore, missing: str) -> None:
    blueprint = BLUEPRINTS["low_rank"]
    request = replace(requested(blueprint, nn.Conv2d(2, 2, 3)), **{missing: None})
    for call in (lambda: compile_kernel(store, blueprint, request), lambda: build(blueprint, request)):
        with pytest.raises(UsageError, match=r"older version wrote it; compile it beside the model"):
            call()
    assert list(store.keys()) == []


def test_a_request_is_for_its_own_blueprint(store: ArtifactStore) -> None:
    request = requested(BLUEPRINTS["low_rank"], nn.Linear(4, 4))
    with pytest.raises(UsageError, match="the request is for low_rank@"):
        compile_kernel(store, BLUEPRINTS["bottleneck_mlp"], request)


@pytest.mark.parametrize(("blueprint", "site", "shape"), PAIRS)
def test_a_request_that_crossed_the_log_gives_the_kernel_that_the_model_would(
    store: ArtifactStore, blueprint: BlueprintRegistered, site: nn.Module, shape: tuple[int, ...]
) -> None:
    request = requested(blueprint, site)
    crossed = KernelRequested(**json.loads(json.dumps(jsonable(request))))
    beside, _ = compile_kernel(store, blueprint, request)
    away, _ = compile_kernel(store, blueprint, replace(crossed, dims=tuple(crossed.dims)))
    assert isinstance(away, KernelCompiled), away
    assert replace(away, measured=None) == replace(beside, measured=None)
    assert (away.geometry, away.dtype) == (request.geometry, request.dtype)


def test_a_grown_kernel_is_not_born_again() -> None:
    site = SITES["linear"][0]
    kernel = built("low_rank", site)
    request = requested(BLUEPRINTS["low_rank"], site)
    examine(kernel, request)
    with torch.no_grad():
        kernel.get_parameter("up.weight")[0, 0] = 1e-30
    with pytest.raises(UsageError, match="not zero at birth"):
        examine(kernel, request)


def put(store: ArtifactStore, data: bytes) -> str:
    sha256 = hashlib.sha256(data).hexdigest()
    store.put(kernel_key(sha256), data)
    return sha256


def file_with(graph: Any, tensors: dict[str, Tensor]) -> bytes:
    return safetensors.torch.save(tensors, metadata={"esper.kernel": json.dumps(graph)})


@pytest.fixture
def parts() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Graph and tensors of a good kernel, for a test to spoil."""
    kernel = built("bottleneck_mlp", SITES["linear"][0])
    return kernel.graph.model_dump(mode="json"), {name: each.detach() for name, each in kernel.named_parameters()}


def test_a_good_file_made_by_hand_loads(store: ArtifactStore, parts: tuple[Any, Any]) -> None:
    load_kernel(store, put(store, file_with(*parts)))


def test_a_file_that_is_cut_anywhere_is_corrupt(store: ArtifactStore, parts: tuple[Any, Any]) -> None:
    data = file_with(*parts)
    for length in (0, 4, 8, 9, 100, len(data) // 2, len(data) - 1):
        sha256 = put(store, data[:length])
        with pytest.raises(CorruptArtifact, match=f"kernel {sha256[:12]} cannot be used"):
            load_kernel(store, sha256)


def test_a_file_with_another_digest_is_corrupt(store: ArtifactStore, parts: tuple[Any, Any]) -> None:
    data = file_with(*parts)
    store.put(kernel_key("a" * 64), data)
    with pytest.raises(CorruptArtifact, match="is damaged"):
        load_kernel(store, "a" * 64)
    with pytest.raises(CorruptArtifact, match="is missing"):
        load_kernel(store, "b" * 64)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("layers.1.op", "attention"),
        ("layers.0.hook", "x"),
        ("layers.0.out_size", 2**31),
        ("layers.0.out_size", 21),
        ("layers.0.bias", False),
        ("layers.0.input", "up"),
        ("layers.1.name", "forward"),
        ("output", "nothing"),
        ("dtype", "torch.float64"),
        ("dtype", "torch.load"),
        ("format", 2),
        ("code", "import os"),
    ],
)
def test_a_file_whose_graph_is_not_right_is_corrupt(
    store: ArtifactStore, parts: tuple[Any, Any], path: str, value: Any
) -> None:
    graph, tensors = parts
    place = graph
    *parents, last = path.split(".")
    for key in parents:
        place = place[int(key) if isinstance(place, list) else key]
    place[last] = value
    with pytest.raises(CorruptArtifact, match="cannot be used") as raised:
        load_kernel(store, put(store, file_with(graph, tensors)))
    assert "\n" not in str(raised.value)


def test_a_file_whose_graph_is_far_too_large_is_corrupt(store: ArtifactStore) -> None:
    kernel = built("low_rank", SITES["conv 3x3"][0])
    graph = kernel.graph.model_dump(mode="json")
    graph["layers"][0] |= {"in_size": 2**31, "out_size": 2**31, "kernel": [2**16, 2**16]}
    with pytest.raises(CorruptArtifact, match="parameters; 50000000 are allowed"):
        load_kernel(store, put(store, file_with(graph, dict(kernel.state_dict()))))


def test_a_file_whose_tensors_are_not_those_of_its_graph_is_corrupt(
    store: ArtifactStore, parts: tuple[Any, Any]
) -> None:
    graph, tensors = parts
    fewer = {name: tensor for name, tensor in tensors.items() if name != "up.weight"}
    for wrong in (
        fewer,
        tensors | {"more": torch.zeros(1)},
        tensors | {"up.weight": tensors["up.weight"].T.contiguous()},
        tensors | {"up.weight": tensors["up.weight"].double()},
    ):
        with pytest.raises(CorruptArtifact, match="cannot be used"):
            load_kernel(store, put(store, file_with(graph, wrong)))


@pytest.mark.parametrize(
    "data",
    [
        b"not a kernel at all",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 20_000) + b"[" * 20_000,
        safetensors.torch.save({"x": torch.zeros(2)}),
        safetensors.torch.save({"x": torch.zeros(2)}, metadata={"esper.kernel": "[" * 5000}),
    ],
)
def test_a_file_that_is_no_kernel_is_corrupt(store: ArtifactStore, data: bytes) -> None:
    with pytest.raises(CorruptArtifact, match="cannot be used"):
        load_kernel(store, put(store, data))
