"""Kinds of site, one module each. ``KINDS`` finds them by itself; a package of a user adds its own with an entry point
of the group ``esper.kinds``.

What a kind says of numbers needs no torch; torch is imported only where a module is looked at.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

from esper.errors import UsageError
from esper.plugins import Plugins

if TYPE_CHECKING:
    from torch import nn

FEATURES, IMAGE = "features", "image"
"""Layouts: [..., features]; [N, channels, height, width] or [channels, height, width]."""


class Geometry(BaseModel):
    """What besides its dims and dtype a kernel at a site depends on. Its defaults are those of the module."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Kind(ABC):
    """One kind of site. Its module has one input and one output, both tensors."""

    name: ClassVar[str]
    """As in a SiteTable and in blueprints."""
    dims: ClassVar[tuple[str, ...]]
    """Names of its dims; the first two are ``in`` and ``out``: the features or channels of its input and output."""
    layout: ClassVar[str]
    """Of its input and output: which operators work there."""
    unit: ClassVar[int]
    """The dimension of its output along which its units lie, counted from the end: -1 is the last."""
    geometry: ClassVar[type[Geometry]] = Geometry
    methods: ClassVar[tuple[str, ...]] = ("forward",)
    """What computes its output; a subclass with one of its own is another layer."""
    weightless: ClassVar[bool] = False
    """Whether it may do without a weight."""

    @abstractmethod
    def module(self) -> type[nn.Module]:
        """The class of its modules, subclasses included."""

    @abstractmethod
    def examples(self) -> list[Any]:
        """Small modules of this kind, as different as they may be: the contract that every kind keeps is tried on
        them."""

    @abstractmethod
    def dims_of(self, module: Any) -> tuple[int, ...]:
        """The dims of one of its modules."""

    def geometry_of(self, module: Any) -> Geometry:
        """The geometry of one of its modules; raises ValueError if it is none."""
        return self.geometry()

    def refusal(self, module: Any) -> str | None:
        """Why no seed may grow at this module, though it is of this kind. None where one may."""
        return None

    @abstractmethod
    def sample(self, dims: tuple[int, ...], geometry: Any) -> tuple[int, ...]:
        """The shape of a small input on which a kernel can be tried."""

    @abstractmethod
    def output(self, shape: tuple[int, ...], dims: tuple[int, ...], geometry: Any) -> tuple[int, ...]:
        """The shape of a site's output for an input of ``shape``."""


KINDS = Plugins("kind of site", Kind, "esper.kasmina.kinds", "KIND", "esper.kinds")  # type: ignore[type-abstract]


def kind_of(module: nn.Module) -> Kind | None:
    """The kind of which ``module`` is; the closest, where a class of one kind extends that of another.

    Raises UsageError for two kinds of one class.
    """
    kinds: dict[type[nn.Module], Kind] = {}
    for kind in KINDS:
        other = kinds.setdefault(kind.module(), kind)
        if other is not kind:
            raise UsageError(f"{kind.module().__name__} is of two kinds, {other.name} and {kind.name}; drop one")
    return next((kinds[each] for each in type(module).__mro__ if each in kinds), None)
