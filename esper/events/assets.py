"""Events about blueprints and the kernels that are compiled from them, on the topic ``esper.assets``.

The key is the blueprint's id. An event that comes twice counts once.
"""

from __future__ import annotations

from dataclasses import dataclass

from esper.events.runs import Evidence, Measured


@dataclass(frozen=True, slots=True, kw_only=True)
class BlueprintRegistered:
    """An immutable description of a small network. ``definition`` is canonical JSON, ``blueprint`` is
    ``name@`` and the first 12 hex digits of its SHA-256, ``parents`` its lineage."""

    blueprint: str
    name: str
    version: int
    definition: str
    kinds: tuple[str, ...]
    tags: tuple[str, ...]
    parents: tuple[str, ...]
    measured: Measured | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRequested:
    """Someone wants ``blueprint`` compiled for a site, initialised from ``seed``.

    ``geometry`` is canonical JSON of what else the site's kind says that a kernel depends on, such as the padding of a
    convolution, ``dtype`` that of the kernel's parameters (``torch.float32``). Where they are None a kernel can be
    compiled only beside the model.
    """

    blueprint: str
    kind: str
    dims: tuple[int, ...]
    seed: int
    geometry: str | None = None
    dtype: str | None = None
    measured: Measured | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelCompiled:
    """``kernel`` (SHA-256 of graph and tensors) is in the artifacts."""

    blueprint: str
    kernel: str
    kind: str
    dims: tuple[int, ...]
    seed: int
    parameters: int
    size: int
    geometry: str | None = None
    dtype: str | None = None
    measured: Measured | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRejected:
    """The blueprint could not be compiled for these shapes, and why."""

    blueprint: str
    kind: str
    dims: tuple[int, ...]
    seed: int
    reason: str
    geometry: str | None = None
    dtype: str | None = None
    measured: Measured | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelEvaluated:
    """A gate judged the kernel at a site of these shapes."""

    blueprint: str
    kernel: str
    kind: str
    dims: tuple[int, ...]
    gate: str
    evidence: Evidence
    measured: Measured | None = None
