"""The part of the host beside which a seed runs (its *span*), and how the input of a span reaches its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from esper.errors import Unsupported


@dataclass(frozen=True, slots=True)
class Span:
    """A kernel at a span sees the input of ``entry``, and its effect is added to the output of ``exit``.

    ``within`` is a module whose forward calls both: one call of it is one pass. A layer is the span of itself.
    """

    entry: nn.Module
    exit: nn.Module
    within: nn.Module

    @classmethod
    def of(cls, layer: nn.Module) -> Span:
        """The span of one layer alone."""
        return cls(layer, layer, layer)


class Passage:
    """Carries the input of a span from its entry to its exit. Its methods are hooks of the span's modules.

    Only an input that came in during the same call of ``within`` is ever given: one that was left behind by an
    exception, by a call of the entry alone or by activation checkpointing is not.
    """

    def __init__(self, learning: bool) -> None:
        self._learning, self._open = learning, False
        self._input: Tensor | None = None
        self._version, self._recorded = 0, False

    def begin(self, within: nn.Module, args: tuple[Any, ...]) -> None:
        """Hook before the forward of ``within``: a pass begins, and what an earlier one left behind is dropped."""
        self._open, self._input = True, None

    def end(self, within: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Hook after the forward of ``within``, even one that raised: the pass is over."""
        self._open, self._input = False, None

    def enter(self, entry: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Hook before the forward of ``entry``: keeps its input. Raises Unsupported outside of a pass, and where an
        input is kept already."""
        if not self._open:
            raise Unsupported(
                f"a span was run outside of the module that holds it, from its {type(entry).__name__} on; call that "
                "module, and checkpoint activations of it as a whole"
            )
        if self._input is not None:
            raise Unsupported(f"a span was entered again, at its {type(entry).__name__}, before it was left")
        self._input = input_of(entry, args, kwargs)
        self._version, self._recorded = _version(self._input), torch.is_grad_enabled()

    def leave(self, exit: nn.Module) -> Tensor:
        """The input that belongs to the output that ``exit`` gives now. Raises Unsupported where there is none."""
        x, self._input = self._input, None
        name = type(exit).__name__
        if x is None:
            raise Unsupported(f"a span was left, at its {name}, without having been entered in the same pass")
        if _version(x) != self._version:
            raise Unsupported(f"the input of a span that ends with a {name} was changed in place within it")
        if (torch.is_grad_enabled() or self._learning) and not (self._recorded and torch.is_grad_enabled()):
            raise Unsupported(
                f"a span that ends with a {name} was run without gradients, or in part; checkpoint activations of "
                "the module that holds it as a whole, with use_reentrant=False"
            )
        return x


def input_of(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The tensor that ``module`` was called with; raises Unsupported if it is none."""
    x = args[0] if args else kwargs.get("input")
    if not isinstance(x, Tensor):
        raise Unsupported(f"a {type(module).__name__} was called with no tensor, first or as input=; seeds need one")
    return x


def _version(x: Tensor) -> int:
    return 0 if x.is_inference() else x._version
