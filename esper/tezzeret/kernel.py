"""Kernels as bytes: a safetensors file with the graph in its metadata, addressed by its SHA-256."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import safetensors.torch
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor

from esper.artifacts.port import ArtifactStore
from esper.errors import CorruptArtifact, UsageError
from esper.events.encoding.codec import canonical_json
from esper.tezzeret.graph import DTYPES, KernelGraph, parameters_of
from esper.tezzeret.module import Kernel

_GRAPH = "esper.kernel"  # the only entry of the metadata: safetensors writes several in any order


def kernel_key(sha256: str) -> str:
    """Where the kernel with that SHA-256 lies in the artifacts."""
    return f"kernels/{sha256}"


def save_kernel(store: ArtifactStore, kernel: Kernel) -> tuple[str, int]:
    """Store ``kernel``; returns its SHA-256 in hex and its size in bytes."""
    data = kernel_bytes(kernel)
    sha256 = hashlib.sha256(data).hexdigest()
    store.put(kernel_key(sha256), data)
    return sha256, len(data)


def load_kernel(store: ArtifactStore, sha256: str, device: torch.device | str = "cpu") -> Kernel:
    """The kernel with that SHA-256, equal to the stored one bit for bit, on ``device``.

    Raises CorruptArtifact if it is missing, damaged, or no kernel.
    """
    data = store.get(kernel_key(sha256), sha256)
    try:
        return _kernel_of(data, device)
    except (SafetensorError, ValidationError, UsageError, ValueError, LookupError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CorruptArtifact(f"kernel {sha256[:12]} cannot be used ({reason}); compile its blueprint again") from error


def kernel_bytes(kernel: Kernel) -> bytes:
    """The file of ``kernel``: the same bytes for the same graph and tensors."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in kernel.named_parameters()}
    return safetensors.torch.save(tensors, metadata={_GRAPH: canonical_json(kernel.graph.model_dump(mode="json"))})


def _kernel_of(data: bytes, device: torch.device | str) -> Kernel:
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    graph = KernelGraph.model_validate_json(header["__metadata__"][_GRAPH])
    if graph.dtype not in DTYPES:
        raise UsageError(f"its dtype {graph.dtype!r} is unknown")
    parameters_of(graph)
    tensors = safetensors.torch.load(data)
    _compare(dict(Kernel(graph, "meta").named_parameters()), tensors)
    kernel = Kernel(graph, device)
    with torch.no_grad():
        # Copied, not adopted: tensors in a safetensors file are not aligned, which can change a product's bits.
        for name, parameter in kernel.named_parameters():
            parameter.copy_(tensors[name])
    return kernel


def _compare(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    if set(expected) != set(tensors):
        raise UsageError(f"its graph has {sorted(expected)}, its tensors are {sorted(tensors)}")
    for name, tensor in tensors.items():
        if (tensor.shape, tensor.dtype) != (expected[name].shape, expected[name].dtype):
            raise UsageError(f"{name} has {tuple(tensor.shape)} {tensor.dtype}, not as its graph says")
